//! PID 1 of the test VM. In: the plan that the host put into the RAM disk. Out: the command's output on the second and third serial port, its
//! exit status on QEMU's exit port.
//!
//! A program instead of a shell script, because it must reap orphans, keep the command's time, and write to an I/O port. The command sees
//! pipes, not terminals, as it would under a test runner; when it ends, everything else is killed, which closes the pipes.

#[path = "../vm/plan.rs"]
mod plan;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{BaudRate, SetArg, cfmakeraw, cfsetspeed, tcdrain, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use plan::Plan;

/// File systems to mount: type, place, options. One that a kernel lacks is left out.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "ptmxmode=666"),
    ("tmpfs", "/dev/shm", ""),
    ("tmpfs", "/run", ""),
    ("tmpfs", "/tmp", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("cgroup2", "/sys/fs/cgroup", ""),
];

/// Where programs are; the kernel hands init no `PATH`.
const SEARCH: &str = "/usr/local/bin:/usr/sbin:/usr/bin";

/// How long killed processes may take to close their ends of the pipes.
const LAST_WORDS: Duration = Duration::from_secs(3);

fn main() {
    let code = match run() {
        Ok(code) => code,
        Err(error) => {
            report(&format!("vm-init: {error:#}"));
            plan::INIT_FAILED
        }
    };
    nix::unistd::sync();
    power_off(code);
}

/// Everything between mounting and power-off.
fn run() -> Result<u8> {
    mount_all()?;
    let text = fs::read(plan::PATH).context("no plan in the RAM disk")?;
    let plan: Plan = serde_json::from_slice(&text).context("the plan cannot be read")?;
    prepare(&plan)?;
    let code = supervise(&plan)?;
    if plan.out {
        pack_results()?;
    }
    Ok(code)
}

/// Writes `/out` as a tar archive onto the disk that the host reads.
fn pack_results() -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["-cf", "/dev/disk/out", "-C", "/out", "."]).env("PATH", SEARCH);
    match tar.status() {
        Ok(status) if status.success() => Ok(()),
        // A process that cannot be killed keeps the reaper busy, which then takes this status; the host sees whether the archive is whole.
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(()),
        Ok(status) => bail!("cannot pack /out: {status}"),
        Err(error) => bail!("cannot start tar: {error}"),
    }
}

fn mount_all() -> Result<()> {
    for (kind, place, options) in MOUNTS {
        let _ = fs::create_dir_all(place);
        match mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), Some(*options)) {
            Ok(()) | Err(Errno::ENODEV | Errno::ENOENT) => {}
            Err(error) => bail!("cannot mount {kind} on {place}: {error}"),
        }
    }
    for (link, to) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let _ = symlink(to, Path::new("/dev").join(link));
    }
    Ok(())
}

/// Modules, network, cgroup controllers, names of disks.
fn prepare(plan: &Plan) -> Result<()> {
    for module in &plan.modules {
        quietly(&["modprobe", "-q", module])?;
    }
    quietly(&["ip", "link", "set", "lo", "up"])?;
    for controller in ["+memory", "+io", "+cpu", "+pids"] {
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", controller)
            .with_context(|| format!("cannot enable {controller}"))?;
    }
    name_disks()
}

/// Links `/dev/disk/SERIAL` to each disk that has one.
fn name_disks() -> Result<()> {
    fs::create_dir_all("/dev/disk")?;
    for entry in fs::read_dir("/sys/block").context("no /sys/block")? {
        let disk = entry?;
        let serial = fs::read_to_string(disk.path().join("serial")).unwrap_or_default();
        if !serial.trim().is_empty() {
            symlink(Path::new("/dev").join(disk.file_name()), Path::new("/dev/disk").join(serial.trim()))?;
        }
    }
    Ok(())
}

/// Runs a helper whose failure the command will see by itself.
fn quietly(words: &[&str]) -> Result<()> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("PATH", SEARCH).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().map(drop).with_context(|| format!("cannot start {}", words[0]))
}

/// Runs the command to its end or to the end of its time, and gives the code for the exit port.
fn supervise(plan: &Plan) -> Result<u8> {
    let (done, copied) = sync_channel(2);
    let stdout = copier("/dev/ttyS1", done.clone())?;
    let stderr = copier("/dev/ttyS2", done)?;
    let (program, arguments) = plan.command.split_first().context("the plan has no command")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/root").envs([("PATH", SEARCH), ("HOME", "/root")]);
    command.envs(plan.environment.iter().cloned()).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let child = match command.spawn() {
        Ok(child) => Pid::from_raw(i32::try_from(child.id())?),
        Err(error) => bail!("cannot start `{program}` in the guest: {error}"),
    };
    // Our own ends of the pipes must close, or they would never be at their end.
    drop(command);
    let reaped = reaper(child);
    let code = match reaped.recv_timeout(Duration::from_secs(plan.timeout_s)) {
        Ok(status) => verdict(status),
        Err(_) => plan::TIMED_OUT,
    };
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    // Until the reaper has no child left: after that it cannot take the status of our own helpers.
    while reaped.recv_timeout(LAST_WORDS).is_ok() {}
    for _ in 0..2 {
        let _ = copied.recv_timeout(LAST_WORDS);
    }
    Ok(code)
}

/// A pipe whose other end a thread copies to a serial port; it says on `done` when the pipe is at its end.
fn copier(port: &'static str, done: SyncSender<()>) -> Result<OwnedFd> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut tty = open_raw(port)?;
    std::thread::spawn(move || {
        let mut reader = File::from(OwnedFd::from(reader));
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            let _ = tty.write_all(&buffer[..count]);
        }
        let _ = tcdrain(tty.as_fd());
        let _ = done.send(());
    });
    Ok(OwnedFd::from(writer))
}

/// Collects every child, as PID 1 must, and sends the status of the one that matters.
fn reaper(child: Pid) -> Receiver<ExitStatus> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        loop {
            let status = match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => ExitStatus::from_raw(code << 8),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => ExitStatus::from_raw(signal as i32),
                Err(Errno::ECHILD) => return,
                _ => continue,
            };
            let _ = sender.send(status);
        }
    });
    receiver
}

/// What fits through the exit port; what does not is said.
fn verdict(status: ExitStatus) -> u8 {
    match status.code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if code <= plan::LARGEST => code,
        _ => {
            report(&format!("vm-init: the command ended with {status}, passed on as {}", plan::LARGEST));
            plan::LARGEST
        }
    }
}

/// Says something where the host shows it.
fn report(line: &str) {
    if let Ok(mut tty) = open_raw("/dev/ttyS2") {
        let _ = writeln!(tty, "{line}");
        let _ = tcdrain(tty.as_fd());
    }
}

fn open_raw(port: &str) -> Result<File> {
    let tty = OpenOptions::new().write(true).read(true).open(port).with_context(|| format!("cannot open {port}"))?;
    let mut settings = tcgetattr(&tty).with_context(|| format!("{port} is no terminal"))?;
    cfmakeraw(&mut settings);
    cfsetspeed(&mut settings, BaudRate::B115200)?;
    tcsetattr(&tty, SetArg::TCSANOW, &settings)?;
    Ok(tty)
}

/// Ends the machine with `code`; where there is no exit port, with a reboot, which QEMU reports as an even status.
#[expect(unsafe_code, reason = "writing to an I/O port has no safe interface")]
fn power_off(code: u8) -> ! {
    // SAFETY: `ioperm` changes only which ports this process may use.
    let allowed = unsafe { libc::ioperm(u64::from(plan::EXIT_PORT), 4, 1) } == 0;
    if allowed {
        // SAFETY: the port is QEMU's exit device, which the host always adds; writing it touches no memory.
        unsafe { std::arch::asm!("out dx, al", in("dx") plan::EXIT_PORT, in("al") code, options(nomem, nostack)) };
    }
    let _ = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    panic!("the machine neither ended nor rebooted");
}
