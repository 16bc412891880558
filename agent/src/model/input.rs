//! Input: everything the engine may know. Events come as raw frames from the rings; all the rest is a
//! [`Fact`], recorded as it is. Nothing else enters the engine: no clock, no file, no name service.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use super::counters::CounterReading;
use super::{
    action::{Done, Verified},
    event::Event,
    fault::Severity,
};

/// One numbered step of the engine.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a boxed reading would be freed on the reactor's path")]
pub enum Input {
    /// A decoded frame.
    Event(Event),
    /// A frame that did not decode.
    Malformed {
        /// The sensor it claims, or `None`.
        sensor: Option<u16>,
    },
    /// Anything that is not from a ring.
    Fact(Fact),
}

/// An input that is not an event. Order and meaning of the variants are part of the recording format: new
/// ones go to the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "a boxed reading would be freed on the reactor's path")]
pub enum Fact {
    /// Time goes on although nothing happened.
    Tick {
        /// CLOCK_MONOTONIC, ns.
        now_ns: u64,
    },
    /// Latencies of one device and operation class in the last sampling window.
    Disk(DiskReading),
    /// The kernel-side counters.
    Counters(CounterReading),
    /// Cgroups that are new or renamed.
    Cgroups(Arc<[CgroupName]>),
    /// Block devices that are new.
    Devices(Arc<[DeviceName]>),
    /// The programs are detached; the last facts follow.
    Stopping {
        /// CLOCK_MONOTONIC, ns.
        now_ns: u64,
    },
    /// The cgroup paths of the agent, its guardian and PID 1, which no action may touch.
    Own(Arc<[String]>),
    /// The hands are through with an action.
    Done(Done),
    /// The hands looked at the entity of an action.
    Verified(Verified),
    /// Cgroups that were removed.
    Gone(Arc<[CgroupName]>),
    /// What the running kernel calls its reasons to drop a packet.
    DropReasons(Arc<[DropReason]>),
    /// The kernel's log told of a fault.
    KernelLog(KernelReport),
    /// Lines of the kernel's log were overwritten before anybody read them.
    LogLost {
        /// When that was noticed, ns.
        now_ns: u64,
        /// How many.
        count: u64,
    },
    /// The kernel looks for hung tasks this often at least, ns.
    HangCheck {
        /// The longer of its timeout and its interval.
        every_ns: u64,
    },
}

/// Latencies of a device in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReading {
    /// End of the window, ns.
    pub now_ns: u64,
    /// Kernel device number.
    pub dev: u32,
    /// 0 read, 1 write, 2 other.
    pub op_class: u32,
    /// Completed I/Os.
    pub count: u64,
    /// Median, ns (upper bound of its bucket).
    pub p50_ns: u64,
    /// 99th percentile, ns (upper bound of its bucket).
    pub p99_ns: u64,
}

/// A cgroup's id and path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupName {
    /// In which trees the id holds: bit 0 processes, bit 1 memory.
    pub trees: u8,
    /// kernfs node id, the inode number of the directory.
    pub id: u64,
    /// Path below the hierarchy's root, starting with `/`.
    pub path: String,
}

/// [`CgroupName::trees`]: the tree of processes and units.
pub const TREE_PROCESS: u8 = 1;
/// [`CgroupName::trees`]: the tree of the memory controller.
pub const TREE_MEMORY: u8 = 2;

/// A fault that the kernel's log tells of, see [`crate::kernel_log::report::Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelReport {
    /// When it was read, ns.
    pub now_ns: u64,
    /// Name of the rule.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is ill, where the kernel names it; else empty.
    pub subject: String,
    /// A task's pid, a CPU's number.
    pub number: Option<u32>,
    /// Lines so far; for a one-line fact, how often it was said since the last time.
    pub lines: u32,
    /// Whether the kernel then gave up.
    pub panicked: bool,
    /// The report is over: the second and last word about it.
    pub ended: bool,
    /// Name of the rule that fits it best, now that all of it is known.
    pub became: String,
}

/// A reason to drop a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReason {
    /// `enum skb_drop_reason` of the running kernel; it differs from version to version.
    pub number: u32,
    /// The constant's name in lower case, without its prefix.
    pub name: String,
}

/// A block device's number and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceName {
    /// Kernel device number.
    pub dev: u32,
    /// Name below /sys/block.
    pub name: String,
}
