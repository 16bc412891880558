//! `faultline release`, and the agent's own start. In: the journals; out: everything of earlier agents taken back, and for a
//! start the two journals ready to be written.
//!
//! By hand it is what the guardian does by itself; doing it twice does nothing the second time. Neither runs beside a living
//! agent: the node's lock says whether there is one, and /proc/locks who.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

use super::journal::{
    By, JournalError, Paths, RecoveryJournal, ReflexJournal, SLOTS, Session, boot_id, outstanding, read_all,
};
use super::restore::{Report, restore};
use crate::kernel::CgroupLayout;
use crate::privilege::{LockError, lock_node};

/// From this size on, bytes, a journal whose story is settled gives way to a new one at the next start.
const ROTATE_AT: u64 = 8 << 20;

/// Why nothing was released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// An agent runs: its guardian will see to it.
    #[error("an agent runs{}; stop it, its guardian then takes back what it froze or limited", pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    AgentRuns {
        /// Its pid, where /proc/locks tells.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error(transparent)]
    Lock(LockError),
    /// Somebody else is at it, or /proc is missing.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Takes back by hand what an agent left behind. Problems that did not stop it are in the report.
///
/// # Errors
/// [`ReleaseError`]; nothing was touched then.
pub fn release(paths: &Paths, layout: &CgroupLayout) -> Result<Report, ReleaseError> {
    let _lock = lock_node(&paths.lock).map_err(|error| match error {
        LockError::Held { path } => ReleaseError::AgentRuns { pid: holder(&path) },
        error @ LockError::File { .. } => ReleaseError::Lock(error),
    })?;
    Ok(restore(paths, layout, By::Release)?.0)
}

/// Takes back at an orderly end what the agent holds, where its guardian cannot. The journals must be closed.
///
/// # Errors
/// [`JournalError`]; nothing was touched then.
pub fn at_the_end(paths: &Paths, layout: &CgroupLayout) -> Result<Report, JournalError> {
    Ok(restore(paths, layout, By::Agent)?.0)
}

/// How many actions of earlier agents are still to be taken back, if no agent runs: for one that may only say so.
pub fn left_behind(paths: &Paths, layout: &CgroupLayout) -> usize {
    let (Ok(boot), None) = (boot_id(), holder(&paths.lock)) else { return 0 };
    outstanding(&read_all(paths, layout).0, &boot).len()
}

/// The journals of a new agent.
#[derive(Debug)]
pub struct Settled {
    /// For the reactor.
    pub reflex: ReflexJournal,
    /// For the executor.
    pub recovery: RecoveryJournal,
    /// What of earlier agents was seen to.
    pub report: Report,
}

/// Settles what earlier agents left behind and opens the journals. The caller holds the node's lock.
///
/// # Errors
/// [`JournalError::Corrupt`] and [`JournalError::Version`] after taking back whatever could be read; the files stay as they
/// are, and until they are moved away nothing may be acted on. Else: no journal, no action, either.
pub fn settle(paths: &Paths, layout: &CgroupLayout) -> Result<Settled, JournalError> {
    let session = Session::current()?;
    let (mut report, journal) = restore(paths, layout, By::Agent)?;
    let mut recovery = journal?;
    // The mapping is about to be replaced: what it tells must be on the disk, or be kept as it is.
    ReflexJournal::read(&paths.reflex, layout)?;
    if !report.is_incomplete() && recovery.len() > ROTATE_AT {
        recovery = rotate(paths, recovery, &mut report)?;
    }
    recovery.begin(&session)?;
    let reflex = ReflexJournal::create(&paths.reflex, SLOTS, &session)?;
    Ok(Settled { reflex, recovery, report })
}

fn rotate(paths: &Paths, full: RecoveryJournal, report: &mut Report) -> Result<RecoveryJournal, JournalError> {
    let old = paths.recovery.with_extension("journal.1");
    if let Err(error) = std::fs::rename(&paths.recovery, &old) {
        report.problems.push(format!("cannot rename {} to {}: {error}", paths.recovery.display(), old.display()));
        return Ok(full);
    }
    Ok(RecoveryJournal::open(&paths.recovery)?.0)
}

/// Who holds the flock on a file: lines of `N: FLOCK ADVISORY WRITE PID MAJ:MIN:INODE 0 EOF` (proc_locks(5)).
fn holder(path: &Path) -> Option<u32> {
    let meta = std::fs::metadata(path).ok()?;
    let file = format!("{:02x}:{:02x}:{}", major(meta.dev()), minor(meta.dev()), meta.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let pid = (words.next()? == "FLOCK").then(|| words.nth(2))?;
        (words.next()? == file).then_some(pid?.parse().ok()?)
    })
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
