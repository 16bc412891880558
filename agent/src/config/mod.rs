//! Configuration: what was meant. In: TOML text (`raw`). Out: a [`Config`] whose every value is in range; an
//! invalid configuration cannot exist as a value.

pub mod policy;
mod raw;
mod raw_policy;

use std::path::{Path, PathBuf};

use faultline_common::{event::COMM_LEN, sensor::SENSORS, tunable::Tunables};
use thiserror::Error;

/// May the agent touch the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Sense, judge and report; never touch anything.
    Observe,
    /// Also repair, within the scope.
    Act,
}

impl Mode {
    /// The word as typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Act => "act",
        }
    }
}

/// How the reactor waits for the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// Sleep at once.
    Never,
    /// Spin this long after an event, then sleep, ns.
    Adaptive(u64),
    /// Never sleep; takes a whole CPU.
    Always,
}

/// The reactor thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reactor {
    /// How it waits.
    pub spin: Spin,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Its SCHED_FIFO priority, 1..=99.
    pub fifo_priority: Option<i32>,
}

/// Sizes of the rings in bytes: powers of two, at least a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// The ring of faults that must not be pushed out.
    pub critical_bytes: u32,
    /// The ring of everything that comes in floods.
    pub bulk_bytes: u32,
}

/// What is watched more closely.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Units whose main process must not fail.
    pub units: Vec<String>,
    /// Executables whose non-zero statuses count towards a crash loop.
    pub executables: Vec<[u8; COMM_LEN]>,
}

/// When events are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// This many ...
    pub count: usize,
    /// ... within this time, ns.
    pub window_ns: u64,
}

/// When a disk is slow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiskLatency {
    /// An I/O slower than this is an outlier, ns.
    pub outlier_ns: u64,
    /// The same for rotating disks, ns.
    pub rotational_outlier_ns: u64,
    /// This many outliers ...
    pub burst: usize,
    /// ... within this time are a burst, ns.
    pub burst_window_ns: u64,
    /// p99 this many times its baseline is slow ...
    pub factor: f64,
    /// ... if it is also above this, ns.
    pub floor_ns: u64,
}

/// When retransmits are a storm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetransmitStorm {
    /// This many retransmits to a peer ...
    pub count: u64,
    /// ... within this time, ns ...
    pub window_ns: u64,
    /// ... that are at least this share of all segments, per thousand ...
    pub share_permille: u64,
    /// ... and this many times what is usual for the peer.
    pub factor: f64,
}

/// Thresholds of the detectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detect {
    /// `crash_loop`: deaths, each after a new start.
    pub crash_loop: Burst,
    /// `connect_failure`: of one peer.
    pub connect_failure: Burst,
    /// `connection_reset`: received from one peer.
    pub connection_reset: Burst,
    /// `bad_checksum`: packets of one peer.
    pub bad_checksum: Burst,
    /// `disk_latency`.
    pub disk_latency: DiskLatency,
    /// `retransmit_storm`.
    pub retransmit_storm: RetransmitStorm,
}

/// The life of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Quiet time after which a fault is clearing, ns.
    pub clear_after_ns: u64,
    /// Further quiet time after which it is closed, ns.
    pub close_after_ns: u64,
}

/// The flight recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Whether it runs.
    pub enabled: bool,
    /// The last so many ns are kept.
    pub window_ns: u64,
    /// Where recordings go when a fault opens; `None`: `flight` in the service's state directory.
    pub dir: Option<PathBuf>,
    /// Recordings kept.
    pub keep: usize,
}

impl Flight {
    /// The directory: as configured, else in systemd's `$STATE_DIRECTORY`, else in /var/lib/faultline.
    pub fn directory(&self) -> PathBuf {
        let state = || std::env::var_os("STATE_DIRECTORY").map_or_else(|| "/var/lib/faultline".into(), PathBuf::from);
        self.dir.clone().unwrap_or_else(|| state().join("flight"))
    }
}

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// May the agent touch the node.
    pub mode: Mode,
    /// What the hands may do.
    pub policy: policy::Policy,
    /// Which sensors are on, by sensor number.
    pub sensors: [bool; SENSORS],
    /// Whether the kernel's log is read, too.
    pub kernel_log: bool,
    /// The reactor thread.
    pub reactor: Reactor,
    /// Ring sizes.
    pub rings: Rings,
    /// Kernel-side limits.
    pub limits: Tunables,
    /// What is watched more closely.
    pub watch: Watch,
    /// Thresholds.
    pub detect: Detect,
    /// Life cycle.
    pub faults: Faults,
    /// The flight recorder.
    pub flight: Flight,
    /// Whether `event` lines are printed.
    pub events: bool,
}

/// Why a configuration is not one. Each message names file, line, key and what is expected.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}; name a readable TOML file with --config")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a wrong type.
    #[error("{path}:{line}: {message}; expected: see `faultline check --help` for every key")]
    Syntax {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// What the parser says, naming the key.
        message: String,
    },
    /// A value out of range.
    #[error("{path}:{line}: {key} = {value}: expected {expected}")]
    Range {
        /// The file.
        path: String,
        /// Line, from 1; 0 when the value is a default.
        line: usize,
        /// Dotted key.
        key: &'static str,
        /// The value as typed.
        value: String,
        /// What would be good.
        expected: &'static str,
    },
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, line, key and the expected form.
    pub fn load(path: &Path) -> Result<(Self, String), ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        let config = Self::parse(&text, &name)?;
        Ok((config, text))
    }

    /// Validates TOML text; `name` is what messages call it.
    ///
    /// # Errors
    /// [`ConfigError`], naming line, key and the expected form.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        raw::parse(text, name)
    }
}

impl Default for Config {
    fn default() -> Self {
        raw::defaults()
    }
}

/// Every key with its default and meaning, for `faultline check --help`.
pub const REFERENCE: &str = raw::REFERENCE;

#[cfg(test)]
mod tests;
