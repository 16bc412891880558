//! Output: what one engine step had to say, in order. Fixed size, no allocation; `export` turns it into lines.

use std::sync::Arc;

use super::{
    action::{Action, Request},
    event::Event,
    fault::{Fault, State},
    input::{CgroupName, DeviceName, DropReason},
};

/// One thing the engine said.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a boxed fault would be allocated on the reactor's path")]
pub enum Output {
    /// A kernel event passed.
    Event(Event),
    /// A fault opened, changed or ended.
    Fault(Fault),
    /// The hands shall do this.
    Act(Request),
    /// An action was decided, refused, done, or its outcome is known.
    Action(Action),
    /// Something was lost between the kernel and the engine.
    Loss(Loss),
    /// Names for cgroup ids that later outputs use.
    Cgroups(Arc<[CgroupName]>),
    /// Names for device numbers that later outputs use.
    Devices(Arc<[DeviceName]>),
    /// Names for reasons that later outputs use.
    DropReasons(Arc<[DropReason]>),
    /// A cgroup id without a name was met; the resolver may find one.
    Unresolved {
        /// kernfs node id.
        id: u64,
    },
}

impl Output {
    /// Engine time of what is said, ns; 0 for names, which have none.
    pub fn at_ns(&self) -> u64 {
        match self {
            Self::Event(event) => event.header().ktime_ns,
            Self::Fault(fault) => fault.at_ns,
            Self::Loss(loss) => loss.to_ns,
            Self::Action(action) => action.at_ns,
            Self::Cgroups(_) | Self::Devices(_) | Self::DropReasons(_) | Self::Unresolved { .. } | Self::Act(_) => 0,
        }
    }
}

impl Output {
    /// The number of the fault that opens with this, for the first time.
    pub fn opened(&self) -> Option<u64> {
        match self {
            Self::Fault(fault) if fault.state == State::Open && fault.at_ns == fault.opened_ns => Some(fault.id),
            _ => None,
        }
    }
}

/// Events that did not reach the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Sensor number, `None` when it cannot be told.
    pub sensor: Option<u16>,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: LossReason,
    /// Start of the window in which it happened, ns.
    pub from_ns: u64,
    /// End of that window, ns.
    pub to_ns: u64,
}

/// Why events were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The ring had no room.
    RingFull,
    /// A per-key limit or the guard of the critical ring refused.
    Limited,
    /// The kernel skipped the program.
    Missed,
    /// The in-flight table was full.
    InsertFailed,
    /// A frame did not decode.
    Malformed,
    /// The recorder could not keep up or its disk was full.
    RecorderGap,
    /// The recording ends in a torn or damaged block.
    RecordingDamaged,
    /// The line writer could not keep up.
    ExportFull,
    /// Lines of the kernel's log were overwritten before they could be read.
    LogOverwritten,
}

impl LossReason {
    /// The word as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::Limited => "limited",
            Self::Missed => "missed",
            Self::InsertFailed => "insert_failed",
            Self::Malformed => "malformed",
            Self::RecorderGap => "recorder_gap",
            Self::RecordingDamaged => "recording_damaged",
            Self::ExportFull => "export_full",
            Self::LogOverwritten => "log_overwritten",
        }
    }
}
