//! Privilege: what the agent asks of the kernel for itself, and what it got. In: nothing. Out: a list of
//! grants and refusals, each with what the refusal costs; nothing here is fatal but a lost lock in `act`.
#![expect(unsafe_code, reason = "mlockall and sched_setscheduler have no safe wrapper with the flags needed")]

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sched::{CpuSet, sched_setaffinity},
    sys::resource::{RLIM_INFINITY, Resource, setrlimit},
    unistd::Pid,
};
use thiserror::Error;

use crate::config::Reactor;

/// One thing that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What.
    pub what: &'static str,
    /// `None` when granted, else why not and what that costs.
    pub refused: Option<String>,
}

impl Grant {
    fn of(what: &'static str, result: Result<(), String>) -> Self {
        Self { what, refused: result.err() }
    }
}

/// Kernels before 5.11 charge BPF maps to RLIMIT_MEMLOCK.
pub fn raise_memlock() -> Grant {
    let result = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    Grant::of(
        "memlock_limit",
        result.map_err(|e| format!("RLIMIT_MEMLOCK stays ({e}): on kernels before 5.11 maps may not fit")),
    )
}

/// Locks what the agent touches, so that it is not paged out by what it reports. Pages count once touched
/// (MCL_ONFAULT): locking whole thread stacks would cost more than all else together.
pub fn lock_memory() -> Grant {
    // SAFETY: a system call on our own address space, no pointers.
    let rc = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    let result = if rc == 0 { Ok(()) } else { Err(Errno::last()) };
    Grant::of(
        "memory_lock",
        result.map_err(|e| {
            format!("mlockall: {e}: under memory pressure the agent may be paged out; grant CAP_IPC_LOCK")
        }),
    )
}

/// Brings the program's own code into memory. Without it the first fault of an agent, which may be the only one that ever
/// matters, is answered some hundred page faults later than the second. Before 5.14 (EINVAL) it stays as it is.
pub fn prefault_code() {
    const MADV_POPULATE_READ: libc::c_int = 22;
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, end) in maps.lines().filter_map(code) {
        // SAFETY: reading ahead changes no memory, whatever the range; it lies in a mapping of our own.
        let rc = unsafe { libc::madvise(start as *mut libc::c_void, end - start, MADV_POPULATE_READ) };
        if rc != 0 {
            tracing::debug!(error = %Errno::last(), "code is read in when it is first needed");
            return;
        }
    }
}

/// `START-END r-xp OFFSET DEV INODE /path` of /proc/PID/maps: bounds of a mapping of a file's code.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp" && words.nth(3).is_some_and(|path| path.starts_with('/'));
    let bounds = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    is_code.then_some(bounds)
}

/// Keeps the OOM killer away from the agent.
pub fn protect_from_oom() -> Grant {
    let result = fs::write("/proc/self/oom_score_adj", "-1000");
    Grant::of(
        "oom_protection",
        result.map_err(|e| format!("oom_score_adj: {e}: the agent may be killed for memory; grant CAP_SYS_RESOURCE")),
    )
}

/// Pins the calling thread and makes it real-time, as configured. SCHED_FIFO resets on fork.
pub fn place_reactor(reactor: &Reactor) -> Vec<Grant> {
    let mut grants = Vec::new();
    if let Some(cpu) = reactor.cpu {
        let pinned = CpuSet::new().set_and(cpu).and_then(|set| sched_setaffinity(Pid::from_raw(0), &set));
        grants.push(Grant::of("reactor_cpu", pinned.map_err(|e| format!("CPU {cpu}: {e}: the reactor is not pinned"))));
    }
    if let Some(priority) = reactor.fifo_priority {
        grants.push(Grant::of("reactor_fifo", fifo(priority)));
    }
    grants
}

fn fifo(priority: i32) -> Result<(), String> {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: a valid pointer to a local, the calling thread only.
    let rc = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const param) };
    if rc == 0 {
        Ok(())
    } else {
        Err(format!("SCHED_FIFO {priority}: {}: wake-ups may be late; grant CAP_SYS_NICE", Errno::last()))
    }
}

/// Setting one CPU in a fresh set.
trait SetAnd: Sized {
    fn set_and(self, cpu: usize) -> nix::Result<Self>;
}

impl SetAnd for CpuSet {
    fn set_and(mut self, cpu: usize) -> nix::Result<Self> {
        self.set(cpu)?;
        Ok(self)
    }
}

/// Why the agent's lock could not be taken.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another agent holds it.
    #[error("another faultline holds {path}: one agent per node may act; stop it, or run this one with --mode observe")]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// The file cannot be made.
    #[error("cannot use the lock file {path}: {source}; make its directory writable for the agent")]
    File {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Holds the lock while it lives.
#[derive(Debug)]
pub struct AgentLock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// Where the lock is.
pub const LOCK: &str = "/run/faultline.lock";

/// Takes the lock of this node.
///
/// # Errors
/// [`LockError::Held`] when another agent has it.
pub fn lock_node(path: &Path) -> Result<AgentLock, LockError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|source| LockError::File { path: path.into(), source })?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(AgentLock(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(LockError::Held { path: path.into() }),
        Err((_, errno)) => Err(LockError::File { path: path.into(), source: errno.into() }),
    }
}

/// Waits until every CPU has left the programs that were running when they were detached: membarrier(2),
/// MEMBARRIER_CMD_GLOBAL, which waits for an RCU grace period.
pub fn wait_for_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers; an error (nohz_full) leaves only the chance of a late record.
    let rc = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if rc != 0 {
        tracing::debug!(error = %Errno::last(), "membarrier is not available; the last counters may be early");
    }
}

/// Gives memory that start-up used back to the kernel.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a call into the allocator without pointers.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_found_among_the_mappings() {
        let line = "55d0c2a00000-55d0c2b00000 r-xp 00100000 fe:00 1234                 /usr/bin/faultline";
        assert_eq!(code(line), Some((0x55d0_c2a0_0000, 0x55d0_c2b0_0000)));
        for other in ["7f00-7f10 r--p 0 fe:00 1 /usr/bin/faultline", "7f00-7f10 r-xp 0 00:00 0 [vdso]", "nonsense"] {
            assert_eq!(code(other), None, "{other}");
        }
        prefault_code();
    }

    #[test]
    fn only_one_holds_the_lock() {
        let path = std::env::temp_dir().join(format!("faultline-lock-{}", std::process::id()));
        let first = lock_node(&path).expect("free");
        assert!(matches!(lock_node(&path), Err(LockError::Held { .. })));
        drop(first);
        lock_node(&path).expect("free again");
        fs::remove_file(&path).expect("clean up");
    }
}
