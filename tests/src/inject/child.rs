//! A child that comes to harm. In: its name and what it does to itself. Out: its process id and how it died.
//!
//! The child is a fork that never reaches exec: its whole life is the closure, so its name is its own, nothing
//! else runs in it, and `spawn` returns when it is dead.
#![expect(unsafe_code, reason = "what happens between fork and exec is the point here")]

use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{
        prctl,
        resource::{Resource, setrlimit},
        signal::{SigHandler, Signal, raise, signal},
    },
    unistd::Pid,
};

/// Runs `harm` in a child called `name` (at most 15 bytes); returns its pid once it died of `expected`.
///
/// # Errors
/// It could not be started, or it did not die so.
pub fn dies(name: &str, expected: Signal, harm: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Result<Pid> {
    let comm = std::ffi::CString::new(name).context("a name without NUL")?;
    let mut harm = harm;
    let life = move || {
        prctl::set_name(&comm)?;
        // A core file would only litter the machine.
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        harm()?;
        Err(io::Error::other("the child survived"))
    };
    let mut command = Command::new("/nonexistent");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: the closure makes system calls and touches memory that it mapped itself; it takes no lock. The
    // allocation for an error happens only in a test that fails.
    unsafe { command.pre_exec(life) };
    let mut child = command.spawn().with_context(|| format!("the child {name} came to no harm"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let status = child.wait().context("cannot wait for the child")?;
    ensure!(status.signal() == Some(expected as i32), "the child {name} ended with {status}, not of {expected}");
    Ok(pid)
}

/// Dies of a signal as a process does that never heard of it.
///
/// # Errors
/// The signal cannot be raised.
pub fn die_of(which: Signal) -> io::Result<()> {
    if which != Signal::SIGKILL {
        // SAFETY: back to the default; the handler that the standard library set would swallow the first SIGSEGV.
        unsafe { signal(which, SigHandler::SigDfl) }?;
    }
    Ok(raise(which)?)
}

/// A name that no other process has: a word and the pid of this one.
pub fn own_name(word: &str) -> String {
    let name = format!("{word}-{}", std::process::id());
    name.chars().take(15).collect()
}

/// A child that has taken its memory and rests; killed and waited for when it is dropped.
#[derive(Debug)]
pub struct Resting(std::sync::Mutex<std::process::Child>);

/// A child in a v2 cgroup that takes so many bytes and then sleeps, with this `oom_score_adj`. Ready when this returns.
///
/// # Errors
/// It could not be started, or took nothing.
pub fn resting(bytes: usize, cgroup: &std::path::Path, score: i32) -> Result<Resting> {
    use std::io::{Read, Write};
    let procs = cgroup.join("cgroup.procs");
    let mut procs = std::fs::File::options().write(true).open(&procs).with_context(|| procs.display().to_string())?;
    let mut command = Command::new(std::env::current_exe().context("no program")?);
    command.args([RESTING, &bytes.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let life = move || {
        procs.write_all(b"0")?;
        let mut adjust = std::fs::File::options().write(true).open("/proc/self/oom_score_adj")?;
        adjust.write_all(score.to_string().as_bytes())
    };
    // SAFETY: as above: system calls only, and the text is a few digits.
    unsafe { command.pre_exec(life) };
    let mut child = command.spawn().context("cannot start a resting child")?;
    let mut ready = [0];
    let told = child.stdout.take().context("a pipe was asked for")?.read_exact(&mut ready);
    told.context("the resting child did not get ready")?;
    Ok(Resting(std::sync::Mutex::new(child)))
}

/// The word by which a program of these tests becomes a resting child.
pub const RESTING: &str = "rest-with-memory";

/// The life of a resting child: takes the memory, says so, sleeps until it is killed.
///
/// # Errors
/// The number is none, or nobody listens.
pub fn rest(bytes: &str) -> Result<()> {
    use std::io::Write;
    let mut taken = vec![0u8; bytes.parse().context("a number of bytes")?];
    taken.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    let mut out = std::io::stdout();
    out.write_all(b"r")?;
    out.flush()?;
    std::hint::black_box(&taken);
    loop {
        nix::unistd::pause();
    }
}

impl Resting {
    /// Sets its `oom_score_adj`.
    ///
    /// # Errors
    /// It is gone, or lower than before without the right to it.
    pub fn score(&self, score: i32) -> Result<()> {
        let file = self.with(|child| format!("/proc/{}/oom_score_adj", child.id()));
        std::fs::write(&file, score.to_string()).with_context(|| format!("cannot write {file}"))
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.with(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until somebody has killed it.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn wait(self) -> Result<()> {
        self.with(|child| child.wait()).map(drop).context("cannot wait for the child")
    }

    /// Kills it.
    pub fn end(&self) {
        self.with(|child| {
            let _ = child.kill();
            let _ = child.wait();
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut std::process::Child) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.end();
    }
}
