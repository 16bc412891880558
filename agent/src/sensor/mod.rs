//! Sensors: what there is to feel, as one static list. In: nothing. Out: [`SENSORS`], which attach, doctor,
//! recording headers and tests walk. A sensor is one word; adding one is a file on each side and a line here.

mod block_io;
mod create;
pub mod health;
pub mod loader;
pub mod logs;
mod oom_kill;
mod packet_drop;
mod process_exit;
pub mod resolve;
mod task_hang;
mod tcp_connect;
mod tcp_reset;
mod tcp_retransmit;

use faultline_common::sensor::SENSORS as COUNT;

/// The compiled BPF object, aligned as the ELF reader needs it.
pub static OBJECT_BYTES: &[u8] = aya::include_bytes_aligned!(env!("FAULTLINE_BPF_OBJECT"));

/// A kind of hook, by the words that `health.hook` prints and `--hook` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    /// BTF-typed raw tracepoint.
    TpBtf,
    /// Raw tracepoint.
    RawTp,
    /// Tracepoint through perf, fields by `format`.
    Tracepoint,
}

impl HookKind {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTp => "raw_tp",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// One program of a rung and the kernel point it attaches to.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSpec {
    /// Name in the object.
    pub program: &'static str,
    /// tracefs category, for plain tracepoints.
    pub category: &'static str,
    /// Tracepoint name.
    pub point: &'static str,
}

/// One way to feel the same thing.
#[derive(Clone, Copy, Debug)]
pub struct Rung {
    /// Its kind.
    pub kind: HookKind,
    /// Its programs; all must attach.
    pub programs: &'static [ProgramSpec],
    /// Offsets without which it is of no use; one name of each group must resolve.
    pub needs: &'static [&'static [&'static str]],
    /// Offsets behind optional fields: the field is missing when none of its offsets resolves.
    pub wants: &'static [(&'static str, &'static [&'static str])],
    /// Fields that this rung can never tell.
    pub never: &'static [&'static str],
}

/// A sensor.
#[derive(Debug)]
pub struct SensorSpec {
    /// The word.
    pub name: &'static str,
    /// Sensor number of `faultline_common::sensor`.
    pub number: u16,
    /// What it feels, for people.
    pub about: &'static str,
    /// Whether the agent is not ready without it.
    pub required: bool,
    /// Whether its limit is a sample on purpose: what is beyond it is counted, told by the next record, and no loss.
    pub sampled: bool,
    /// Maps that it needs besides the common ones; if one cannot be created the sensor is broken.
    pub maps: &'static [&'static str],
    /// Ways to attach, best first.
    pub rungs: &'static [Rung],
}

/// All sensors, by sensor number.
pub const SENSORS: [&SensorSpec; COUNT] = [
    &tcp_retransmit::SPEC,
    &oom_kill::SPEC,
    &block_io::SPEC,
    &process_exit::SPEC,
    &task_hang::SPEC,
    &tcp_connect::SPEC,
    &tcp_reset::SPEC,
    &packet_drop::SPEC,
];

/// Maps that every sensor needs.
pub const COMMON_MAPS: [&str; 3] = ["COUNTERS", "TUNABLES", "LIMITS"];

/// Sensor number of a word.
pub fn number(name: &str) -> Option<u16> {
    SENSORS.iter().find(|s| s.name == name).map(|s| s.number)
}

/// The word of a sensor number.
pub fn name(number: u16) -> &'static str {
    SENSORS.get(usize::from(number)).map_or("unknown", |s| s.name)
}

#[cfg(test)]
mod tests;
