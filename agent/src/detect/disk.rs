//! `disk_latency` and `disk_error`. In: outlier and error records, and a reading per device, operation class
//! and second. Out: signals.
//!
//! Latency is judged twice: a burst of outliers (fast, needs no history), and the 99th percentile of each
//! reading against the device's own learned baseline with a floor (slow, but adapts to a slow disk that has
//! always been slow). The baseline stands still while it alarms.
#![forbid(unsafe_code)]

use faultline_common::{event::BlockIo, hist};

use super::{Context, Detector, Signals};
use crate::{
    config::DiskLatency,
    learn::Baseline,
    model::{
        bounded::BoundedMap,
        entity::Entity,
        event::{Event, errno, is_passthrough, latency_ns, op_class_name, op_name},
        evidence::Evidence,
        fault::{Kind, Severity, Signal},
        input::{DiskReading, Fact},
        snapshot::{Loader, Saver, SnapshotError},
    },
};

/// Devices followed at the same time.
const DEVICES: usize = 256;
/// Outliers remembered for each; also the largest `disk_latency.burst`.
pub const BURST: usize = 64;
/// Readings before a baseline counts.
const WARM: u32 = 30;
/// I/Os in a reading below which its percentile says nothing.
const ENOUGH: u64 = 10;
/// Bad readings in a row that make a finding.
const IN_A_ROW: u8 = 3;

/// The detector.
#[derive(Debug)]
pub struct Disk {
    rule: DiskLatency,
    bursts: BoundedMap<u32, Burst>,
    levels: BoundedMap<(u32, u32), Level>,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Burst {
    #[serde(with = "crate::model::snapshot::array")]
    at_ns: [u64; BURST],
    total: usize,
    worst_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Level {
    baseline: Baseline,
    bad: u8,
}

impl Disk {
    /// From the thresholds of the configuration.
    pub fn new(rule: &DiskLatency) -> Self {
        Self { rule: *rule, bursts: BoundedMap::with_capacity(DEVICES), levels: BoundedMap::with_capacity(DEVICES * 3) }
    }

    fn outlier(&mut self, io: &BlockIo, latency_ns: u64, out: &mut Signals) {
        let fresh = || Burst { at_ns: [0; BURST], total: 0, worst_ns: 0 };
        let (burst, _) = self.bursts.entry_or_insert_with(io.dev, fresh);
        let now = io.header.ktime_ns;
        burst.at_ns[burst.total % BURST] = now;
        burst.total += 1;
        burst.worst_ns = burst.worst_ns.max(latency_ns);
        if burst.total < self.rule.burst {
            return;
        }
        let first = burst.at_ns[(burst.total - self.rule.burst) % BURST];
        let span_ns = now.saturating_sub(first);
        if span_ns > self.rule.burst_window_ns {
            burst.worst_ns = latency_ns;
            return;
        }
        out.push(Signal {
            kind: Kind::DiskLatency,
            entity: Entity::Device(io.dev),
            severity: Severity::Warning,
            confidence: 900,
            evidence: Evidence::EMPTY
                .word("by", "outlier_burst")
                .word("op", op_name(io.op))
                .number("outliers", self.rule.burst as u64)
                .number("span_ms", span_ns / 1_000_000)
                .number("latency_us", latency_ns / 1000)
                .number("worst_us", burst.worst_ns / 1000),
            cause_ns: Some(now),
            joins: false,
        });
    }

    fn reading(&mut self, r: &DiskReading, out: &mut Signals) {
        // The third class mixes flushes, discards and raw commands: its percentile moves with the mixture.
        if r.count < ENOUGH || r.op_class == hist::OTHER {
            return;
        }
        let (level, _) = self.levels.entry_or_insert_with((r.dev, r.op_class), Level::default);
        let normal = level.baseline.level(WARM);
        let p99 = r.p99_ns as f64;
        let bad = normal.is_some_and(|n| p99 > n * self.rule.factor) && r.p99_ns > self.rule.floor_ns;
        if !bad {
            level.bad = 0;
            level.baseline.learn(p99);
            return;
        }
        level.bad = level.bad.saturating_add(1);
        if level.bad < IN_A_ROW {
            return;
        }
        out.push(Signal {
            kind: Kind::DiskLatency,
            entity: Entity::Device(r.dev),
            severity: Severity::Warning,
            confidence: 900,
            evidence: Evidence::EMPTY
                .word("by", "p99_against_baseline")
                .word("op", op_class_name(r.op_class))
                .number("p99_us", r.p99_ns / 1000)
                .number("normal_p99_us", normal.unwrap_or(0.0) as u64 / 1000)
                .number("ios", r.count),
            cause_ns: None,
            joins: false,
        });
    }
}

/// Errors that are answers, not faults: an unsupported operation, a non-blocking request that would block.
fn is_benign(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::EAGAIN)
}

fn disk_error(io: &BlockIo, errno: i32) -> Signal {
    let mut evidence = Evidence::EMPTY
        .word("op", op_name(io.op))
        .number("errno", errno.unsigned_abs().into())
        .number("sector", io.sector)
        .number("bytes", io.bytes.into());
    if errno == libc::EILSEQ {
        evidence = evidence.flag("protection", true);
    }
    Signal {
        kind: Kind::DiskError,
        entity: Entity::Device(io.dev),
        severity: Severity::Critical,
        confidence: 1000,
        evidence,
        cause_ns: Some(io.header.ktime_ns),
        joins: false,
    }
}

impl Detector for Disk {
    fn observe(&mut self, event: &Event, _: &mut Context, out: &mut Signals) {
        let Event::BlockIo(io) = event else { return };
        match errno(io) {
            0 => {
                // A raw command (firmware, SMART), a discard or a flush may take its time on a healthy disk.
                if let Some(latency) = latency_ns(io).filter(|_| hist::op_class(io.op) != hist::OTHER) {
                    self.outlier(io, latency, out);
                }
            }
            errno if !is_benign(errno) && !is_passthrough(io.op) => out.push(disk_error(io, errno)),
            _ => {}
        }
    }

    fn fact(&mut self, fact: &Fact, _: &mut Context, out: &mut Signals) {
        if let Fact::Disk(reading) = fact {
            self.reading(reading, out);
        }
    }

    fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.bursts);
        to.put(&self.levels);
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        (self.bursts, self.levels) = (from.take()?, from.take()?);
        Ok(())
    }
}
