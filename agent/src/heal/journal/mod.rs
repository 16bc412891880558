//! The journals. In: what is about to be done, and what came of it; out: every action of the agent, also the one it died in.
//!
//! Two files, because two clocks write them. [`ReflexJournal`] is a locked, shared mapping on `/run`: the reactor stores into
//! it without a system call, and it survives SIGKILL (not a power cut, after which nothing is frozen either).
//! [`RecoveryJournal`] is a file of lines under `/var/lib`, synced before and after each action of the executor; into it the
//! reflex entries are copied when a session is settled. No journal, no action.

mod entry;
mod error;
mod line;
mod recovery;
mod reflex;
mod slot;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use entry::{By, Entry, Kind, Settlement, outstanding, read_all};
pub(in crate::heal) use entry::{fold, merge};
pub use error::JournalError;
pub use line::Record;
pub use recovery::{RecoveryJournal, Scan};
pub use reflex::{ReflexJournal, SlotIndex};
pub use slot::{FreezeUndo, Intent};

use serde::{Deserialize, Serialize};

/// Version of both formats.
pub const VERSION: u32 = 1;
/// Slots of the reflex journal: 128 KiB of locked memory.
pub const SLOTS: usize = 1024;

/// Where the journals are, and the lock that says whether an agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The mapping; on a file system that a boot empties.
    pub reflex: PathBuf,
    /// The lines; on a disk.
    pub recovery: PathBuf,
    /// See [`crate::privilege::lock_node`].
    pub lock: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            reflex: PathBuf::from("/run/faultline/reflex.journal"),
            recovery: PathBuf::from("/var/lib/faultline/recovery.journal"),
            lock: PathBuf::from(crate::privilege::LOCK),
        }
    }
}

/// One life of the agent. A pid alone would be somebody else's after a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// /proc/sys/kernel/random/boot_id: entries of another boot are history, nothing of them is left to undo.
    pub boot_id: String,
    /// The agent's pid.
    pub pid: u32,
    /// Its start, clock ticks since boot.
    pub start_ticks: u64,
}

impl Session {
    /// Of the calling process.
    ///
    /// # Errors
    /// [`JournalError::Session`] when /proc does not tell.
    pub fn current() -> Result<Self, JournalError> {
        let pid = std::process::id();
        let stat = super::protect::stat(pid).ok_or(JournalError::Session { file: "/proc/self/stat" })?;
        Ok(Self { boot_id: boot_id()?, pid, start_ticks: stat.starttime })
    }
}

/// The id of this boot.
///
/// # Errors
/// [`JournalError::Session`].
pub fn boot_id() -> Result<String, JournalError> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(FILE).map_err(|_| JournalError::Session { file: FILE })?;
    Ok(text.trim().to_owned())
}
