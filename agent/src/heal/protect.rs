//! Who is never touched, whatever was decided. In: pids, or an opened cgroup; out: a refusal that says who is in it.
//!
//! The decider has asked the same before; this is asked again from /proc at the moment of the action, because a
//! mistake here cannot be repaired: PID 1, kernel threads, the agent itself and its guardian.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use procfs::FromRead;
use procfs::process::Stat;

use super::cgroup::Dir;
use super::error::HandError;

/// `PF_KTHREAD` (include/linux/sched.h), as field 9 of /proc/PID/stat shows it.
const PF_KTHREAD: u32 = 0x0020_0000;

/// The pids that are never a target. Kernel threads are told by their own flag. Clones share who the guardian is.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    pids: Vec<u32>,
    /// 0: there is none.
    guardian: Arc<AtomicU32>,
}

impl Protection {
    /// PID 1, the calling process and its guardian.
    pub fn of_agent(guardian: Option<u32>) -> Self {
        let protection = Self::of([1, std::process::id()]);
        guardian.inspect(|pid| protection.guardian_is(*pid));
        protection
    }

    /// Another guardian took over.
    pub fn guardian_is(&self, pid: u32) {
        self.guardian.store(pid, Ordering::Release);
    }

    /// Exactly these pids (and kernel threads).
    pub fn of(pids: impl IntoIterator<Item = u32>) -> Self {
        let mut pids: Vec<u32> = pids.into_iter().collect();
        pids.sort_unstable();
        Self { pids, ..Self::default() }
    }

    /// One process.
    ///
    /// # Errors
    /// [`HandError::Protected`].
    pub fn judge(&self, pid: u32) -> Result<(), HandError> {
        let protected = |why: &str| Err(HandError::Protected { what: format!("pid {pid}"), why: why.into() });
        match pid {
            1 if self.pids.contains(&1) => protected("it is PID 1"),
            _ if self.pids.contains(&pid) || self.guardian.load(Ordering::Acquire) == pid => {
                protected("it is the agent or its guardian")
            }
            // Gone between the list and the look: nobody to protect.
            _ if stat(pid).is_some_and(|stat| stat.flags & PF_KTHREAD != 0) => protected("it is a kernel thread"),
            _ => Ok(()),
        }
    }

    /// A cgroup with all below it.
    ///
    /// # Errors
    /// [`HandError::Protected`] when it is a hierarchy's root or holds somebody protected; else what reading it met.
    pub fn judge_cgroup(&self, dir: &Dir, root_id: u64) -> Result<(), HandError> {
        let what = dir.name();
        if dir.id() == root_id {
            return Err(HandError::Protected { what, why: "it is the root of its hierarchy".into() });
        }
        for pid in dir.processes_below()? {
            self.judge(pid).map_err(|error| HandError::Protected { what: what.clone(), why: error.to_string() })?;
        }
        Ok(())
    }
}

/// /proc/PID/stat; `None` when the process is gone or is hidden.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    Stat::from_file(format!("/proc/{pid}/stat")).ok()
}
