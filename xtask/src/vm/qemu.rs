//! One boot. In: a kernel image, a root file system, disks, a time limit. Out: the status that init wrote, with output streamed meanwhile.
//!
//! Three serial ports keep things apart: the kernel's console goes to a file, the command's standard output and error each to a socket. The
//! status comes through `isa-debug-exit` as an odd number; an even one means that nobody wrote there: a panic, a lost QEMU, a timeout.
//!
//! KVM only where the processor says that it can virtualise: some clouds offer a para-virtual `/dev/kvm` that initialises without an error and
//! then boots no stock kernel. QEMU's emulation boots one to init in two to four seconds.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::plan;
use crate::process;

/// The virtual machine.
pub struct Machine {
    /// Boot image.
    pub kernel: PathBuf,
    /// First root file system.
    pub initrd: PathBuf,
    /// Kernel parameters.
    pub append: String,
    /// Memory in megabytes.
    pub memory_mb: u32,
    /// Arguments for disks.
    pub disks: Vec<String>,
    /// Folder of this run: sockets and the console's log.
    pub folder: PathBuf,
    /// After this the machine is killed; longer than the guest's own limit.
    pub timeout: Duration,
}

/// Where the command's output goes.
pub type Sink = Box<dyn Write + Send>;

impl Machine {
    /// Boots and waits for the end. Returns what init wrote to the exit port.
    ///
    /// # Errors
    /// QEMU cannot be started, or ended without a status from init; the message carries the end of the console.
    pub fn run(&self, qemu: Command, stdout: Sink, stderr: Sink) -> Result<u8> {
        let out = Port::listen(&self.folder.join("out"), stdout)?;
        let err = Port::listen(&self.folder.join("err"), stderr)?;
        let mut command = process::bound_to_us("KILL", &self.arguments(qemu));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", process::describe(&command)))?;
        let (said, timed_out) = wait(&mut child, self.timeout);
        let status = child.wait().context("cannot wait for QEMU")?;
        out.finish();
        err.finish();
        match status.code() {
            Some(code) if code & 1 == 1 && !said.contains("qemu-system") => Ok(u8::try_from(code >> 1)?),
            _ if timed_out => bail!(
                "no verdict: the machine hung and was ended after {} s{}",
                self.timeout.as_secs(),
                self.evidence(&said)
            ),
            _ => bail!("no verdict: QEMU ended with {status}{}", self.evidence(&said)),
        }
    }

    /// What QEMU and the kernel said last.
    fn evidence(&self, said: &str) -> String {
        let console = fs::read(self.folder.join("console")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        format!(
            "\n{}{}\n(the whole console: {})",
            said,
            process::tail(&console, 20),
            self.folder.join("console").display()
        )
    }

    fn arguments(&self, mut command: Command) -> Command {
        let accelerator = if can_virtualise() {
            ["-accel", "kvm", "-accel", "tcg"].as_slice()
        } else {
            &["-accel", "tcg,thread=single"]
        };
        command.args(["-M", "q35"]).args(accelerator).args([
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            &self.memory_mb.to_string(),
        ]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"]);
        command.args(["-device", &format!("isa-debug-exit,iobase={:#x},iosize=0x04", plan::EXIT_PORT)]);
        command.arg("-serial").arg(format!("file:{}", self.folder.join("console").display()));
        for name in ["out", "err"] {
            command
                .arg("-chardev")
                .arg(format!("socket,id={name},server=off,path={}", self.folder.join(name).display()));
            command.args(["-serial", &format!("chardev:{name}")]);
        }
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", &self.append])
            .args(&self.disks);
        command
    }
}

/// Reads QEMU's own messages until it ends, which closes the pipe; kills it when the time is over.
fn wait(child: &mut Child, timeout: Duration) -> (String, bool) {
    let (sender, receiver) = mpsc::sync_channel(1);
    let mut pipe = child.stderr.take();
    std::thread::spawn(move || {
        let mut said = String::new();
        if let Some(pipe) = pipe.as_mut() {
            let _ = pipe.read_to_string(&mut said);
        }
        let _ = sender.send(said);
    });
    if let Ok(said) = receiver.recv_timeout(timeout) {
        return (said, false);
    }
    let _ = child.kill();
    (receiver.recv().unwrap_or_default(), true)
}

/// A serial port of the guest, as a socket that is copied to a sink.
struct Port {
    path: PathBuf,
    copier: JoinHandle<()>,
}

impl Port {
    fn listen(path: &Path, mut sink: Sink) -> Result<Self> {
        let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        let copier = std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                let _ = sink.write_all(&buffer[..count]).and_then(|()| sink.flush());
            }
        });
        Ok(Self { path: path.to_path_buf(), copier })
    }

    /// Waits until everything is copied. A QEMU that never connected leaves the copier in `accept`: a connection of our own ends that.
    fn finish(self) {
        drop(UnixStream::connect(&self.path));
        let _ = self.copier.join();
    }
}

fn can_virtualise() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let capable = flags
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split(' ').any(|flag| flag == "svm" || flag == "vmx"));
    capable && fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}
