//! The guardian: a small child that outlives the agent for one purpose. In: the end of a socket, which falls silent when
//! the agent dies of whatever cause; out: everything the agent froze or limited is as it was, within a second.
//!
//! It is this binary started again (`faultline guardian REFLEX RECOVERY`), because a fork of a process with threads could
//! not allocate safely. What it has to take back it reads from the journals at that moment, so that while the agent lives
//! there is nothing to tell it and nothing to be forgotten. It has a session of its own and blocks every signal that can be
//! blocked: a Ctrl-C or a service manager's SIGTERM ends the agent, and the guardian through it.
//!
//! It cannot survive what kills its whole cgroup at once (`cgroup.kill`, systemd's final SIGKILL); then the next start of the
//! agent settles, or `faultline release` (as `ExecStopPost=`).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::unistd::{getppid, setsid};

use super::journal::{By, JournalError, Paths};
use super::pidfd::PidFd;
use super::restore::{Report, describe, restore};
use crate::kernel::{CgroupLayout, FactError, Root};
use crate::privilege;

/// How long the guardian may take to come up, and at an orderly stop to take everything back.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a dead agent's descriptors may take to be closed, ms.
const AGENT_GONE_MS: u16 = 1000;
/// How often a busy journal is tried again, and how long is waited in between, ms: half a second in all.
const BUSY_TRIES: usize = 50;
const BUSY_MS: u8 = 10;

/// The guardian's words and the agent's one.
const READY: u8 = b'r';
const STOP: u8 = b'q';
const RESTORED: u8 = b'd';

/// Why there is no guardian, and therefore nothing may be frozen or limited.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// A system call failed.
    #[error("cannot {operation} the guardian: {cause}; without it nothing is frozen or limited")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        cause: io::Error,
    },
    /// In the guardian: the cgroup mounts are unknown.
    #[error("the guardian does not find the cgroup hierarchies: {0}; run `faultline release`")]
    Layout(#[from] FactError),
    /// In the guardian: somebody else holds the journal, who then settles it.
    #[error("the guardian takes nothing back: {0}")]
    Journal(#[from] JournalError),
}

impl GuardianError {
    fn system(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::System { operation, cause }
    }
}

/// The guardian as the agent sees it. Its descriptor turns readable when the guardian is gone.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    channel: UnixStream,
}

impl Guardian {
    /// Starts one and waits until it watches.
    ///
    /// # Errors
    /// [`GuardianError::System`].
    pub fn start(paths: &Paths) -> Result<Self, GuardianError> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("guardian").arg(&paths.reflex).arg(&paths.recovery);
        Self::start_command(command)
    }

    /// The same with a command that will call [`main`].
    pub(super) fn start_command(mut command: Command) -> Result<Self, GuardianError> {
        let (mut channel, end) = UnixStream::pair().map_err(GuardianError::system("make a channel to"))?;
        command.stdin(Stdio::from(OwnedFd::from(end))).stdout(Stdio::null());
        let mut child = spawn(&mut command).map_err(GuardianError::system("start"))?;
        // The command keeps the child's end open here; as long as it does, a dead guardian would not be noticed.
        drop(command);
        let mut word = [0];
        let heard = channel.set_read_timeout(Some(PATIENCE)).and_then(|()| channel.read_exact(&mut word));
        heard.map_err(|cause| {
            // One that does not watch is none; and a child that nobody waits for stays.
            let _ = child.kill().and_then(|()| child.wait());
            GuardianError::System { operation: "hear from", cause }
        })?;
        Ok(Self { child, channel })
    }

    /// For [`super::Protection`].
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It is gone, as its descriptor told: how it ended, in words.
    pub fn epitaph(mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// The orderly end: the guardian takes everything back and exits. Drop the recovery journal first: the guardian waits
    /// for its lock for half a second, and then gives up; the next start or `faultline release` settles.
    ///
    /// # Errors
    /// [`GuardianError::System`] when it does not answer; the next start then settles.
    pub fn stop(mut self) -> Result<(), GuardianError> {
        let mut word = [0];
        let asked = self.channel.write_all(&[STOP]).and_then(|()| self.channel.read_exact(&mut word));
        asked.map_err(GuardianError::system("stop"))?;
        self.child.wait().map(drop).map_err(GuardianError::system("wait for"))
    }
}

impl AsFd for Guardian {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn spawn(command: &mut Command) -> io::Result<Child> {
    #[expect(unsafe_code, reason = "std offers no session and no signal mask other than by pre_exec")]
    // SAFETY: between fork and exec the closure makes three async-signal-safe system calls and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            // What the agent itself was left by its parent; before 5.11 (EINVAL) the guardian keeps it, too.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(SigSet::all().thread_set_mask()?)
        });
    }
    command.spawn()
}

/// The guardian itself: watches, takes back, exits. `arguments` are the paths of the two journals.
///
/// # Errors
/// [`GuardianError`].
pub fn main(arguments: &[OsString]) -> Result<(), GuardianError> {
    let mut paths = Paths::default();
    if let [reflex, recovery] = arguments {
        paths.reflex = reflex.into();
        paths.recovery = recovery.into();
    }
    let agent = u32::try_from(getppid().as_raw()).ok().and_then(|pid| PidFd::open(pid).ok());
    settle_in();
    let mut channel = channel()?;
    let orderly = watch(&mut channel)?;
    if !orderly {
        // The socket closes before the journal's lock does; the agent's end comes after both.
        agent.map(|agent| agent.wait_ms(AGENT_GONE_MS));
    }
    let report = take_back(&paths)?;
    if orderly {
        channel.write_all(&[RESTORED]).map_err(GuardianError::system("answer from"))?;
    }
    for line in report.actions.iter().map(describe).chain(report.problems) {
        tracing::warn!("guardian: {line}");
    }
    Ok(())
}

/// Leaves everything behind that is not needed. Nothing of this is fatal: a guardian that may be paged out is better than none.
fn settle_in() {
    let _ = prctl::set_name(c"faultline-guard");
    // Not to keep a file system busy.
    let _ = std::env::set_current_dir("/");
    for grant in [privilege::protect_from_oom(), privilege::lock_memory()] {
        if let Some(refused) = grant.refused {
            tracing::debug!("guardian: {refused}");
        }
    }
}

/// Standard input, which is the agent's socket.
fn channel() -> Result<UnixStream, GuardianError> {
    let own = io::stdin().as_fd().try_clone_to_owned().map_err(GuardianError::system("open the channel of"))?;
    Ok(UnixStream::from(own))
}

/// Until the agent says stop (true) or is silent for ever (false).
fn watch(channel: &mut UnixStream) -> Result<bool, GuardianError> {
    channel.write_all(&[READY]).map_err(GuardianError::system("report from"))?;
    let mut word = [0];
    loop {
        match channel.read(&mut word) {
            Ok(0) => return Ok(false),
            Ok(_) if word == [STOP] => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A socket that cannot be read is an agent that cannot be heard.
            Err(_) => return Ok(false),
        }
    }
}

fn take_back(paths: &Paths) -> Result<Report, GuardianError> {
    let layout = CgroupLayout::gather(&Root::live())?;
    for _ in 1..BUSY_TRIES {
        match restore(paths, &layout, By::Guardian) {
            // A child between fork and exec may hold the agent's lock for a moment longer.
            Err(JournalError::Busy { .. }) => _ = poll(&mut [], PollTimeout::from(BUSY_MS)),
            other => return Ok(other?.0),
        }
    }
    Ok(restore(paths, &layout, By::Guardian)?.0)
}

#[cfg(test)]
#[path = "guardian_tests.rs"]
mod tests;
