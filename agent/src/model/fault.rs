//! Signal and fault: a detector's finding, and what it becomes once it is classified and has a life.

use serde::{Deserialize, Serialize};

use super::{entity::Entity, evidence::Evidence};

/// What is wrong, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A process died of a signal that means it broke, or a watched unit's main process failed.
    ProcessCrash,
    /// The same unit or executable keeps dying after each start.
    CrashLoop,
    /// The kernel killed a process for memory.
    OomKill,
    /// A device answers much slower than it should.
    DiskLatency,
    /// A device failed a request.
    DiskError,
    /// A peer's segments are sent again and again.
    RetransmitStorm,
    /// A task has not run for longer than the kernel's hung-task timeout.
    TaskHang,
    /// Connections to a peer cannot be made, or die silently.
    ConnectFailure,
    /// Connections with a peer are reset again and again.
    ConnectionReset,
    /// Packets of a peer arrive with wrong checksums.
    BadChecksum,
    /// The kernel's log tells of it.
    KernelLog,
}

/// The six classes of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Hardware, network or software of the node itself.
    NodeFailure,
    /// Works, but slowly.
    PerformanceDegradation,
    /// Something ran out.
    ResourceExhaustion,
    /// Peers cannot reach each other.
    NetworkPartition,
    /// A service does not serve.
    ServiceUnavailability,
    /// Data came back wrong.
    DataCorruption,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Worth a look in working hours.
    Warning,
    /// Something does not work.
    Error,
    /// Something important does not work, or data are at risk.
    Critical,
}

/// Where a fault stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is going on.
    Open,
    /// Nothing more was seen for a while; it may come back under the same id.
    Clearing,
    /// It is over.
    Closed,
}

/// A detector's finding with its evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signal {
    /// What is wrong.
    pub kind: Kind,
    /// What is ill.
    pub entity: Entity,
    /// How bad this finding is.
    pub severity: Severity,
    /// 0..=1000, before the loss of events is taken into account.
    pub confidence: u16,
    /// The facts behind it.
    pub evidence: Evidence,
    /// CLOCK_MONOTONIC ns of the kernel event that tipped the scale; `None` for a reading.
    pub cause_ns: Option<u64>,
    /// Only further evidence of a living fault: neither opens one nor keeps it from clearing.
    pub joins: bool,
}

/// A classified signal at one point of its life; what a `fault` line prints.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// Number of the fault since the agent started, from 1.
    pub id: u64,
    /// What is wrong.
    pub kind: Kind,
    /// Its class.
    pub class: Class,
    /// The worst severity so far.
    pub severity: Severity,
    /// 0..=100, higher is more urgent.
    pub priority: u8,
    /// 0..=1000.
    pub confidence: u16,
    /// Where it stands.
    pub state: State,
    /// What is ill.
    pub entity: Entity,
    /// The facts of the latest signal, with the count of signals.
    #[serde(with = "super::evidence::exact")]
    pub evidence: Evidence,
    /// Engine time of the first signal, ns.
    pub opened_ns: u64,
    /// Engine time of this transition, ns.
    pub at_ns: u64,
    /// The kernel event that caused this transition.
    pub cause_ns: Option<u64>,
}

impl Kind {
    /// The word as printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProcessCrash => "process_crash",
            Self::CrashLoop => "crash_loop",
            Self::OomKill => "oom_kill",
            Self::DiskLatency => "disk_latency",
            Self::DiskError => "disk_error",
            Self::RetransmitStorm => "retransmit_storm",
            Self::TaskHang => "task_hang",
            Self::ConnectFailure => "connect_failure",
            Self::ConnectionReset => "connection_reset",
            Self::BadChecksum => "bad_checksum",
            Self::KernelLog => "kernel_log",
        }
    }
}
