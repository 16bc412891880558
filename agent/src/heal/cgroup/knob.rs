//! Knobs: the files that are changed. In: a change with the old value and the new one; out: the change made, or taken back.
//!
//! A value is taken back only if it still is what the agent wrote: what an operator has set since stays. All values are
//! kept in the kernel's own spelling, read back after a write, so that comparing is comparing text.

use serde::{Deserialize, Serialize};

use super::dir::Dir;
use super::place::Place;
use crate::heal::HandError;

/// One file of a cgroup that holds one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Knob {
    /// v2 `cgroup.freeze`: `0` or `1`.
    Freeze,
    /// v1 `freezer.state`, told by `freezer.self_freezing`: `0` or `1`. The state itself would also show a parent's.
    FreezerState,
    /// v2 `memory.high`: bytes or `max`.
    MemoryHigh,
    /// v1 `memory.limit_in_bytes`.
    MemoryLimit,
    /// v2 `cpu.max`: `QUOTA PERIOD` in µs, or `max PERIOD`.
    CpuMax,
    /// v1 `cpu.cfs_quota_us`: µs per period, -1 for none.
    CpuQuota,
}

impl Knob {
    /// The file that tells the value.
    pub fn reads(self) -> &'static str {
        match self {
            Self::FreezerState => "freezer.self_freezing",
            _ => self.writes(),
        }
    }

    /// The file that sets the value.
    pub fn writes(self) -> &'static str {
        match self {
            Self::Freeze => "cgroup.freeze",
            Self::FreezerState => "freezer.state",
            Self::MemoryHigh => "memory.high",
            Self::MemoryLimit => "memory.limit_in_bytes",
            Self::CpuMax => "cpu.max",
            Self::CpuQuota => "cpu.cfs_quota_us",
        }
    }

    /// Whether it stops and starts tasks.
    pub fn is_freeze(self) -> bool {
        matches!(self, Self::Freeze | Self::FreezerState)
    }

    /// A value as [`Self::writes`] wants it.
    pub fn spelled(self, value: &str) -> &str {
        match (self, value) {
            (Self::FreezerState, "1") => "FROZEN",
            (Self::FreezerState, _) => "THAWED",
            _ => value,
        }
    }

    /// The value now.
    ///
    /// # Errors
    /// As [`Dir::read`].
    pub fn read(self, dir: &Dir) -> Result<String, HandError> {
        Ok(dir.read(self.reads())?.trim().to_owned())
    }

    /// Sets it.
    ///
    /// # Errors
    /// As [`Dir::write`].
    pub fn write(self, dir: &Dir, value: &str) -> Result<(), HandError> {
        dir.write(self.writes(), self.spelled(value))
    }
}

/// Whether the text of [`Knob::reads`] of a freeze knob says that the cgroup itself was told to freeze.
pub(in crate::heal) fn own_freeze_flag(text: &[u8]) -> bool {
    text.first() == Some(&b'1')
}

/// One value that an action changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Of which cgroup.
    pub place: Place,
    /// Which value.
    pub knob: Knob,
    /// Before, in the kernel's spelling.
    pub old: String,
    /// After.
    pub new: String,
}

/// What taking a change back came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restored {
    /// The old value is back.
    Restored,
    /// It was back already, or the change was never made.
    NothingToDo,
    /// Somebody else has set another value since; it stays.
    ChangedByOthers,
    /// The cgroup is gone, and the change with it.
    Gone,
    /// The kernel refused; it will be tried again.
    Failed,
}

impl Change {
    /// Makes it.
    ///
    /// # Errors
    /// As [`Dir::write`].
    pub fn apply(&self, dir: &Dir) -> Result<(), HandError> {
        self.knob.write(dir, &self.new)
    }

    /// Takes it back, and tells why where that failed.
    pub fn restore(&self) -> (Restored, Option<HandError>) {
        match self.try_restore() {
            Ok(done) => (done, None),
            Err(HandError::Gone { .. } | HandError::Recreated { .. }) => (Restored::Gone, None),
            Err(error) => (Restored::Failed, Some(error)),
        }
    }

    fn try_restore(&self) -> Result<Restored, HandError> {
        let dir = self.open()?;
        let now = self.knob.read(&dir)?;
        if now == self.old {
            return Ok(Restored::NothingToDo);
        }
        if now != self.new {
            return Ok(Restored::ChangedByOthers);
        }
        self.knob.write(&dir, &self.old)?;
        Ok(Restored::Restored)
    }

    /// By path, which is quick; else by the id, which a rename does not change.
    fn open(&self) -> Result<Dir, HandError> {
        match self.place.open() {
            Err(HandError::Gone { .. } | HandError::Recreated { .. }) => {
                super::place::find(&self.place.root, self.place.id)?.open()
            }
            other => other,
        }
    }
}

/// All that has to be taken back of one action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// In the order in which they are made; taken back from the last to the first.
    pub changes: Vec<Change>,
}
