//! One process under the hands. In: a pid with the start time (and cgroup) that the evidence named; out: a descriptor that
//! can only mean that very process, and its end.
//!
//! The order matters: the pidfd first, then the start time from /proc/PID/stat. Were it the other way round, the number
//! could change hands between the two; this way a stranger's start time shows up in the comparison.

use nix::sys::signal::Signal;

use super::HandError;
use super::pidfd::PidFd;
use super::protect::{Protection, stat};

/// Longest chain of parents that is walked; pid namespaces nest at most 32 deep and sessions far less.
const ANCESTORS: usize = 64;

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub pid: u32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot (proc_pid_stat(5)).
    pub start_ticks: u64,
    /// A line of /proc/PID/cgroup (`0::/path`) it must have; `None` where the evidence did not say.
    pub cgroup: Option<String>,
}

/// A process that is surely the one meant.
#[derive(Debug)]
pub struct ProcessHandle {
    pidfd: PidFd,
    identity: Identity,
}

impl ProcessHandle {
    /// Opens it and then makes sure who it is.
    ///
    /// # Errors
    /// [`HandError::Gone`], [`HandError::Recycled`], [`HandError::Protected`]; the latter also for the agent's own parents.
    pub fn open(identity: Identity, protection: &Protection) -> Result<Self, HandError> {
        let pid = identity.pid;
        refuse_ancestor(pid)?;
        protection.judge(pid)?;
        let pidfd = PidFd::open(pid).map_err(HandError::of("open a pidfd of pid", pid))?;
        identity.check()?;
        // The number cannot have changed hands between the look and here: then this signal 0 would find nobody.
        if !pidfd.is_there() {
            return Err(HandError::Gone { what: format!("pid {pid}") });
        }
        Ok(Self { pidfd, identity })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// SIGKILL through the descriptor.
    ///
    /// # Errors
    /// [`HandError::Gone`] when it has ended.
    pub fn kill(&self) -> Result<(), HandError> {
        self.pidfd.signal(Signal::SIGKILL).map_err(HandError::of("kill pid", self.identity.pid))
    }

    /// Waits at most `timeout_ms` for its end; whether it has ended.
    pub fn wait_ms(&self, timeout_ms: u16) -> bool {
        self.pidfd.wait_ms(timeout_ms)
    }

    /// For a prepared handle: the bare descriptor.
    pub(super) fn into_pidfd(self) -> PidFd {
        self.pidfd
    }
}

impl Identity {
    /// Who has this pid now.
    ///
    /// # Errors
    /// [`HandError::Gone`] when nobody.
    pub fn of(pid: u32) -> Result<Self, HandError> {
        let stat = stat(pid).ok_or_else(|| HandError::Gone { what: format!("pid {pid}") })?;
        Ok(Self { pid, start_ticks: stat.starttime, cgroup: None })
    }

    fn check(&self) -> Result<(), HandError> {
        let pid = self.pid;
        let found = Self::of(pid)?.start_ticks;
        if found != self.start_ticks {
            let difference = format!("started at tick {found}, expected {}", self.start_ticks);
            return Err(HandError::Recycled { pid, difference });
        }
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        let file = format!("/proc/{pid}/cgroup");
        let text = std::fs::read_to_string(&file).map_err(HandError::of("read", file))?;
        if text.lines().any(|line| line == cgroup) {
            return Ok(());
        }
        Err(HandError::Recycled { pid, difference: format!("is not in the cgroup {cgroup}") })
    }
}

/// A shell or supervisor above the agent takes it down with it, and on a bare system that chain ends in PID 1.
fn refuse_ancestor(pid: u32) -> Result<(), HandError> {
    let mut at = std::process::id();
    for _ in 0..ANCESTORS {
        if at == pid {
            let why = "it is the agent or one of its parents".into();
            return Err(HandError::Protected { what: format!("pid {pid}"), why });
        }
        match stat(at).and_then(|stat| u32::try_from(stat.ppid).ok()) {
            Some(parent) if parent != 0 => at = parent,
            _ => break,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
