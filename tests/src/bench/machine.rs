//! The machine under the benchmark. In: commands and process ids. Out: children bound to a CPU that die with us, and
//! what /proc says about them.
//!
//! The generator has one CPU, what is measured has the other: on two CPUs they would else wait for each other.
#![expect(unsafe_code, reason = "pre_exec runs a closure between fork and exec; setpriority has no safe wrapper")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use faultline::{
    config::Config,
    kernel::{KernelFacts, Root, tracefs},
};
use nix::{
    poll::{PollTimeout, poll},
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, SysconfVar, sysconf},
};

/// Which CPU does what.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Makes events.
    pub generator: usize,
    /// Takes them.
    pub consumer: usize,
}

impl Places {
    /// The first and the last CPU that we may use.
    ///
    /// # Errors
    /// There are not two.
    pub fn find() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
        let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
        match cpus[..] {
            [generator, .., consumer] => Ok(Self { generator, consumer }),
            _ => bail!("this benchmark needs two CPUs: one makes events, the other takes them"),
        }
    }
}

/// Binds the calling thread to a CPU.
///
/// # Errors
/// The CPU is not there or not ours.
pub fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Lets the calling thread go before everything else of the normal class. Refused without CAP_SYS_NICE: then all that is
/// compared runs at the usual priority, still alike.
pub fn hurry() {
    // SAFETY: a system call without pointers, on the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}

/// Makes the child die with the thread that starts it and, where asked for, stay on one CPU. Such a child also goes before
/// everything else of the normal class: the rest of the machine's work would else be in the times.
pub fn bind(command: &mut Command, cpu: Option<usize>) {
    let prepare = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if let Some(cpu) = cpu {
            pin(cpu)?;
            hurry();
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, which is allowed between fork and exec.
    unsafe { command.pre_exec(prepare) };
}

/// Kills and reaps when it is dropped; no harm to a child that was waited for.
#[derive(Debug)]
struct Reaped(Child);

impl Reaped {
    fn wait(&mut self) -> Result<()> {
        let status = self.0.wait().context("cannot wait for a child")?;
        ensure!(status.success(), "a child of the benchmark ended with {status}");
        Ok(())
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child to which we listen.
#[derive(Debug)]
pub struct Owned {
    child: Reaped,
    said: BufReader<ChildStdout>,
}

impl Owned {
    /// Starts a command whose standard output we read.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, cpu: Option<usize>) -> Result<Self> {
        bind(&mut command, cpu);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Reaped(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        let said = child.0.stdout.take().context("a pipe was asked for")?;
        Ok(Self { child, said: BufReader::new(said) })
    }

    /// Its next line, without the line end.
    ///
    /// # Errors
    /// It ended instead.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.said.read_line(&mut line).context("cannot read what a child says")?;
        ensure!(count > 0, "a child of the benchmark ended too early");
        Ok(line.trim_end().to_owned())
    }

    /// Reads and forgets what it says from now on, on a thread that ends with it.
    pub fn ignore(self) -> Ignored {
        let mut said = self.said;
        std::thread::spawn(move || {
            let mut room = vec![0; 1 << 16];
            while matches!(said.read(&mut room), Ok(1..)) {}
        });
        Ignored(self.child)
    }

    /// Waits for its end, which must be a good one.
    ///
    /// # Errors
    /// It failed.
    pub fn wait(mut self) -> Result<()> {
        self.child.wait()
    }
}

/// A child whose words nobody wants.
#[derive(Debug)]
pub struct Ignored(Reaped);

impl Ignored {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.0.id()
    }

    /// Asks it to stop and waits for that.
    ///
    /// # Errors
    /// It did not end well.
    pub fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM).context("SIGTERM")?;
        self.0.wait()
    }
}

/// This kernel's facts, with tracefs mounted where it was missing.
pub fn facts() -> KernelFacts {
    let root = Root::live();
    let _ = tracefs::mount_if_missing(&root);
    KernelFacts::gather(&root)
}

/// The configuration of all measurements in which floods are wanted: limits far away.
///
/// # Errors
/// The text is wrong, which is a mistake in this file's callers.
pub fn config(spin: &str, more: &str) -> Result<(Config, String)> {
    let text = format!(
        "[reactor]\nspin = \"{spin}\"\n[limits]\nexit_per_executable = 10000000\nblock_per_device = 10000000\n{more}"
    );
    Ok((Config::parse(&text, "bench")?, text))
}

/// Lets time pass.
pub fn wait(duration: Duration) {
    let left = i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
    let _ = poll(&mut [], PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
}

/// User and system time of a process so far, in seconds (fields 14 and 15 of proc_pid_stat(5)).
///
/// # Errors
/// It is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent is gone")?;
    let rest = text.rsplit_once(") ").context("stat without a name")?.1;
    let ticks: u64 = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    Ok(ticks as f64 / per_second as f64)
}

/// Resident memory of a process in bytes: all of it, and that of mapped BPF maps alone.
///
/// # Errors
/// It is gone.
pub fn resident(pid: u32) -> Result<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).context("the agent is gone")?;
    let (mut all, mut maps, mut is_map) = (0, 0, false);
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["Rss:", kb, "kB"] => {
                let bytes = 1024 * kb.parse::<u64>().context("an odd Rss")?;
                all += bytes;
                maps += if is_map { bytes } else { 0 };
            }
            [first, ..] if !first.ends_with(':') => is_map = line.contains("bpf-map") || line.contains("bpf_map"),
            _ => {}
        }
    }
    Ok((all, maps))
}

/// This program, for roles of its own; by a path that holds even if somebody builds a newer one meanwhile.
pub fn own_program() -> Command {
    Command::new("/proc/self/exe")
}

/// A folder of our own that goes with us.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    /// The temporary folder is full or read-only.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("faultline-bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl AsRef<Path> for Scratch {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
