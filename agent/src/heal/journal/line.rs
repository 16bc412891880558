//! One record of the recovery journal: a line of `CRC32 JSON`. In: a record; out: the line, and the way back.
//!
//! Text, because whoever reads it at three in the morning has `less`. The checksum is over the JSON.

use serde::{Deserialize, Serialize};

use super::Session;
use super::entry::{By, Entry, Kind};
use crate::heal::cgroup::{Restored, Undo};
use crate::model::action::{Done, Outcome, Request};

/// What is written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// An agent begins; what follows is its own, until the next one.
    Session {
        /// Of the format.
        version: u32,
        /// Who.
        session: Session,
    },
    /// About to be done.
    Intended {
        /// CLOCK_MONOTONIC ns.
        at_ns: u64,
        /// What.
        request: Request,
        /// What its target is called.
        name: String,
        /// How to take it back.
        undo: Undo,
    },
    /// Over.
    Done {
        /// How.
        done: Done,
    },
    /// Verified.
    Outcome {
        /// Of which action.
        id: u64,
        /// What was seen.
        outcome: Outcome,
        /// CLOCK_MONOTONIC ns.
        at_ns: u64,
    },
    /// A reflex entry, copied here when its session was settled.
    Reflex {
        /// The entry.
        entry: Box<Entry>,
    },
    /// Somebody saw to an action after its agent had gone.
    Settled {
        /// Whose action.
        session: Session,
        /// In which journal it was written first.
        journal: Kind,
        /// Which.
        id: u64,
        /// Who saw to it.
        by: By,
        /// CLOCK_MONOTONIC ns.
        at_ns: u64,
        /// What taking back each change came to, in the order of the undo.
        restored: Vec<Restored>,
        /// For what cannot be taken back: whether it holds; `None`: nobody can tell.
        healthy: Option<bool>,
    },
}

/// The line with its end.
pub(super) fn encode(record: &Record) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string(record)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

/// `None`: not a line that was written so.
pub(super) fn decode(line: &[u8]) -> Option<Record> {
    let (crc, json) = line.split_at_checked(9)?;
    let crc = std::str::from_utf8(crc).ok()?.strip_suffix(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(json) {
        return None;
    }
    serde_json::from_slice(json).ok()
}
