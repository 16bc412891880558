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
