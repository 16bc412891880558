//! What was typed: the TOML document as serde sees it, with the place of every value, and its way to a valid
//! [`Config`]. Every key is optional; unknown keys are errors.

use std::ops::RangeInclusive;

use faultline_common::{event::COMM_LEN, sensor, tunable::Tunables};
use serde::Deserialize;
use toml::Spanned;

use super::{
    Burst, Config, ConfigError, Detect, DiskLatency, Faults, Flight, Mode, Reactor, RetransmitStorm, Rings, Spin,
    Watch,
    raw_policy::{self, RawBudget, RawPlan, RawScope},
};
use crate::detect::{disk::BURST, recent};

/// Every key with its default and meaning.
pub const REFERENCE: &str = include_str!("reference.toml");

pub(super) type Value<T> = Option<Spanned<T>>;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    mode: Option<Mode>,
    protected: Vec<Spanned<String>>,
    scope: RawScope,
    budget: RawBudget,
    plan: Vec<RawPlan>,
    sensors: RawSensors,
    reactor: RawReactor,
    rings: RawRings,
    limits: RawLimits,
    watch: RawWatch,
    detect: RawDetect,
    faults: RawFaults,
    flight: RawFlight,
    output: RawOutput,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawSensors {
    tcp_retransmit: Option<bool>,
    oom_kill: Option<bool>,
    block_io: Option<bool>,
    process_exit: Option<bool>,
    task_hang: Option<bool>,
    tcp_connect: Option<bool>,
    tcp_reset: Option<bool>,
    packet_drop: Option<bool>,
    kernel_log: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawReactor {
    spin: Option<RawSpin>,
    spin_for: Value<String>,
    cpu: Value<i64>,
    fifo_priority: Value<i64>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RawSpin {
    Never,
    Adaptive,
    Always,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRings {
    critical_bytes: Value<i64>,
    bulk_bytes: Value<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawLimits {
    exit_per_executable: Value<i64>,
    block_per_device: Value<i64>,
    retransmit_per_flow: Value<i64>,
    connection_per_peer: Value<i64>,
    drop_per_reason: Value<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawWatch {
    units: Vec<Spanned<String>>,
    executables: Vec<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawDetect {
    crash_loop: RawBurst,
    connect_failure: RawBurst,
    connection_reset: RawBurst,
    bad_checksum: RawBurst,
    disk_latency: RawDiskLatency,
    retransmit_storm: RawRetransmitStorm,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawBurst {
    count: Value<i64>,
    window: Value<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawDiskLatency {
    outlier: Value<String>,
    rotational_outlier: Value<String>,
    burst: Value<i64>,
    burst_window: Value<String>,
    factor: Value<f64>,
    floor: Value<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawRetransmitStorm {
    count: Value<i64>,
    window: Value<String>,
    share_permille: Value<i64>,
    factor: Value<f64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawFaults {
    clear_after: Value<String>,
    close_after: Value<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawFlight {
    enabled: Option<bool>,
    window: Value<String>,
    dir: Value<String>,
    keep: Value<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawOutput {
    events: Option<bool>,
}

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;
pub(super) const DAY: u64 = 86_400 * SECOND;

/// Where values came from, for messages.
pub(super) struct Checker<'a> {
    text: &'a str,
    name: &'a str,
}

impl Checker<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|b| **b == b'\n').count()
    }

    /// The parser's words with the line they are about: they name a value or its type, but not always its key.
    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let line = error.span().map_or(1, |span| self.line(span.start));
        let typed = self.text.lines().nth(line - 1).unwrap_or_default().trim();
        let words =
            error.message().replace("expected i64", "expected an integer").replace("expected f64", "expected a number");
        ConfigError::Syntax { path: self.name.to_owned(), line, message: format!("`{typed}`: {words}") }
    }

    pub(super) fn refuse<T: std::fmt::Display>(
        &self,
        key: &'static str,
        v: &Spanned<T>,
        expected: &'static str,
    ) -> ConfigError {
        ConfigError::Range {
            path: self.name.to_owned(),
            line: self.line(v.span().start),
            key,
            value: v.as_ref().to_string(),
            expected,
        }
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        value: &Value<i64>,
        default: u64,
        range: RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<u64, ConfigError> {
        let Some(v) = value else { return Ok(default) };
        u64::try_from(*v.as_ref()).ok().filter(|n| range.contains(n)).ok_or_else(|| self.refuse(key, v, expected))
    }

    pub(super) fn duration(
        &self,
        key: &'static str,
        value: &Value<String>,
        default: u64,
        range: RangeInclusive<u64>,
        expected: &'static str,
    ) -> Result<u64, ConfigError> {
        let Some(v) = value else { return Ok(default) };
        let parsed = humantime::parse_duration(v.as_ref()).ok().and_then(|d| u64::try_from(d.as_nanos()).ok());
        parsed.filter(|ns| range.contains(ns)).ok_or_else(|| self.refuse(key, v, expected))
    }

    fn factor(&self, key: &'static str, value: &Value<f64>, default: f64) -> Result<f64, ConfigError> {
        let Some(v) = value else { return Ok(default) };
        let good = v.as_ref().is_finite() && (1.0..=1000.0).contains(v.as_ref());
        if good { Ok(*v.as_ref()) } else { Err(self.refuse(key, v, "a factor from 1.0 to 1000.0")) }
    }

    fn ring(&self, key: &'static str, value: &Value<i64>, default: u64) -> Result<u32, ConfigError> {
        const EXPECTED: &str = "a power of two from 4096 to 268435456 (256 MiB)";
        let bytes = self.number(key, value, default, 4096..=1 << 28, EXPECTED)?;
        match value {
            Some(v) if !bytes.is_power_of_two() => Err(self.refuse(key, v, EXPECTED)),
            _ => Ok(bytes as u32),
        }
    }
}

pub(super) fn defaults() -> Config {
    let text = "";
    build(Raw::default(), &Checker { text, name: "defaults" }).unwrap_or_else(|e| unreachable!("{e}"))
}

pub(super) fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
    let checker = Checker { text, name };
    let raw: Raw = toml::from_str(text).map_err(|error| checker.syntax(&error))?;
    build(raw, &checker)
}

fn build(raw: Raw, check: &Checker<'_>) -> Result<Config, ConfigError> {
    let mut sensors = [true; sensor::SENSORS];
    for (number, typed) in [
        (sensor::TCP_RETRANSMIT, raw.sensors.tcp_retransmit),
        (sensor::OOM_KILL, raw.sensors.oom_kill),
        (sensor::BLOCK_IO, raw.sensors.block_io),
        (sensor::PROCESS_EXIT, raw.sensors.process_exit),
        (sensor::TASK_HANG, raw.sensors.task_hang),
        (sensor::TCP_CONNECT, raw.sensors.tcp_connect),
        (sensor::TCP_RESET, raw.sensors.tcp_reset),
        (sensor::PACKET_DROP, raw.sensors.packet_drop),
    ] {
        sensors[usize::from(number)] = typed.unwrap_or(true);
    }
    Ok(Config {
        mode: raw.mode.unwrap_or(Mode::Observe),
        policy: raw_policy::policy(&raw.scope, &raw.protected, &raw.plan, &raw.budget, check)?,
        sensors,
        kernel_log: raw.sensors.kernel_log.unwrap_or(true),
        reactor: reactor(&raw.reactor, check)?,
        rings: Rings {
            critical_bytes: check.ring("rings.critical_bytes", &raw.rings.critical_bytes, 1 << 19)?,
            bulk_bytes: check.ring("rings.bulk_bytes", &raw.rings.bulk_bytes, 1 << 20)?,
        },
        limits: limits(&raw, check)?,
        watch: watch(&raw.watch, check)?,
        detect: Detect {
            crash_loop: burst(&raw.detect.crash_loop, CRASH_LOOP, check)?,
            connect_failure: burst(&raw.detect.connect_failure, CONNECT_FAILURE, check)?,
            connection_reset: burst(&raw.detect.connection_reset, CONNECTION_RESET, check)?,
            bad_checksum: burst(&raw.detect.bad_checksum, BAD_CHECKSUM, check)?,
            disk_latency: disk_latency(&raw.detect.disk_latency, check)?,
            retransmit_storm: retransmit_storm(&raw.detect.retransmit_storm, check)?,
        },
        faults: faults(&raw.faults, check)?,
        flight: flight(&raw.flight, check)?,
        events: raw.output.events.unwrap_or(true),
    })
}

fn reactor(raw: &RawReactor, check: &Checker<'_>) -> Result<Reactor, ConfigError> {
    let spin_for = check.duration(
        "reactor.spin_for",
        &raw.spin_for,
        20_000,
        1000..=MS,
        "a duration from 1us to 1ms, such as \"20us\"",
    )?;
    let spin = match raw.spin.unwrap_or(RawSpin::Adaptive) {
        RawSpin::Never => Spin::Never,
        RawSpin::Adaptive => Spin::Adaptive(spin_for),
        RawSpin::Always => Spin::Always,
    };
    let expected = "a CPU number from 0 to 8191";
    let cpu = raw.cpu.as_ref().map(|_| check.number("reactor.cpu", &raw.cpu, 0, 0..=8191, expected)).transpose()?;
    let expected = "a SCHED_FIFO priority from 1 to 99";
    let fifo = raw.fifo_priority.as_ref();
    let priority =
        fifo.map(|_| check.number("reactor.fifo_priority", &raw.fifo_priority, 1, 1..=99, expected)).transpose()?;
    if let (Some(typed), Spin::Always) = (fifo, spin) {
        let expected = "no fifo_priority together with spin = \"always\": such a thread would never yield its CPU";
        return Err(check.refuse("reactor.fifo_priority", typed, expected));
    }
    Ok(Reactor { spin, cpu: cpu.map(|c| c as usize), fifo_priority: priority.map(|p| p as i32) })
}

fn limits(raw: &Raw, check: &Checker<'_>) -> Result<Tunables, ConfigError> {
    let default = Tunables::DEFAULT;
    let l = &raw.limits;
    let limit = |key, value, default| {
        check.number(key, value, default, 1..=10_000_000, "records per second from 1 to 10000000")
    };
    Ok(Tunables {
        outlier_ns: disk_latency(&raw.detect.disk_latency, check)?.outlier_ns,
        exit_limit: limit("limits.exit_per_executable", &l.exit_per_executable, default.exit_limit)?,
        block_limit: limit("limits.block_per_device", &l.block_per_device, default.block_limit)?,
        retransmit_limit: limit("limits.retransmit_per_flow", &l.retransmit_per_flow, default.retransmit_limit)?,
        peer_limit: limit("limits.connection_per_peer", &l.connection_per_peer, default.peer_limit)?,
        drop_limit: limit("limits.drop_per_reason", &l.drop_per_reason, default.drop_limit)?,
        ..default
    })
}

fn watch(raw: &RawWatch, check: &Checker<'_>) -> Result<Watch, ConfigError> {
    let mut units = Vec::new();
    for unit in &raw.units {
        if !unit.as_ref().ends_with(".service") || unit.as_ref().contains('/') {
            return Err(check.refuse("watch.units", unit, "the full name of a service, such as \"nginx.service\""));
        }
        units.push(unit.as_ref().clone());
    }
    let mut executables = Vec::new();
    for name in &raw.executables {
        let bytes = name.as_ref().as_bytes();
        if bytes.is_empty() || bytes.len() >= COMM_LEN || bytes.contains(&b'/') {
            return Err(check.refuse("watch.executables", name, "a process name (comm) of 1 to 15 bytes, no path"));
        }
        let mut comm = [0; COMM_LEN];
        comm[..bytes.len()].copy_from_slice(bytes);
        executables.push(comm);
    }
    Ok(Watch { units, executables })
}

/// Keys and defaults of a burst: the key of its count, of its window, and both values.
type BurstKeys = (&'static str, &'static str, u64, u64);

const CRASH_LOOP: BurstKeys = ("detect.crash_loop.count", "detect.crash_loop.window", 3, 60 * SECOND);
const CONNECT_FAILURE: BurstKeys = ("detect.connect_failure.count", "detect.connect_failure.window", 5, 30 * SECOND);
const CONNECTION_RESET: BurstKeys =
    ("detect.connection_reset.count", "detect.connection_reset.window", 10, 10 * SECOND);
const BAD_CHECKSUM: BurstKeys = ("detect.bad_checksum.count", "detect.bad_checksum.window", 5, 60 * SECOND);

fn burst(raw: &RawBurst, keys: BurstKeys, check: &Checker<'_>) -> Result<Burst, ConfigError> {
    let (count_key, window_key, count, window_ns) = keys;
    let count = check.number(count_key, &raw.count, count, 2..=recent::TIMES as u64, "a count from 2 to 16")?;
    let window_ns = check.duration(window_key, &raw.window, window_ns, SECOND..=DAY, "a duration from 1s to 1d")?;
    Ok(Burst { count: count as usize, window_ns })
}

fn disk_latency(raw: &RawDiskLatency, check: &Checker<'_>) -> Result<DiskLatency, ConfigError> {
    const LATENCY: RangeInclusive<u64> = 1000..=100 * SECOND;
    const EXPECTED: &str = "a duration from 1us to 100s, such as \"40ms\"";
    let burst = check.number("detect.disk_latency.burst", &raw.burst, 8, 1..=BURST as u64, "a count from 1 to 64")?;
    Ok(DiskLatency {
        outlier_ns: check.duration("detect.disk_latency.outlier", &raw.outlier, 40 * MS, LATENCY, EXPECTED)?,
        rotational_outlier_ns: check.duration(
            "detect.disk_latency.rotational_outlier",
            &raw.rotational_outlier,
            150 * MS,
            LATENCY,
            EXPECTED,
        )?,
        burst: burst as usize,
        burst_window_ns: check.duration(
            "detect.disk_latency.burst_window",
            &raw.burst_window,
            10 * SECOND,
            MS..=DAY,
            "a duration from 1ms to 1d",
        )?,
        factor: check.factor("detect.disk_latency.factor", &raw.factor, 4.0)?,
        floor_ns: check.duration("detect.disk_latency.floor", &raw.floor, 20 * MS, LATENCY, EXPECTED)?,
    })
}

fn retransmit_storm(raw: &RawRetransmitStorm, check: &Checker<'_>) -> Result<RetransmitStorm, ConfigError> {
    Ok(RetransmitStorm {
        count: check.number(
            "detect.retransmit_storm.count",
            &raw.count,
            20,
            2..=1_000_000,
            "a count from 2 to 1000000",
        )?,
        window_ns: check.duration(
            "detect.retransmit_storm.window",
            &raw.window,
            5 * SECOND,
            SECOND..=DAY,
            "a duration from 1s to 1d",
        )?,
        share_permille: check.number(
            "detect.retransmit_storm.share_permille",
            &raw.share_permille,
            10,
            0..=1000,
            "a share from 0 to 1000",
        )?,
        factor: check.factor("detect.retransmit_storm.factor", &raw.factor, 6.0)?,
    })
}

fn flight(raw: &RawFlight, check: &Checker<'_>) -> Result<Flight, ConfigError> {
    let window = "a duration from 4s to 1h";
    let keep = check.number("flight.keep", &raw.keep, 16, 1..=10_000, "a count from 1 to 10000")?;
    if let Some(dir) = raw.dir.as_ref().filter(|dir| !dir.as_ref().starts_with('/')) {
        return Err(check.refuse("flight.dir", dir, "an absolute path"));
    }
    Ok(Flight {
        enabled: raw.enabled.unwrap_or(true),
        window_ns: check.duration("flight.window", &raw.window, 120 * SECOND, 4 * SECOND..=3600 * SECOND, window)?,
        dir: raw.dir.as_ref().map(|dir| dir.as_ref().into()),
        keep: keep as usize,
    })
}

fn faults(raw: &RawFaults, check: &Checker<'_>) -> Result<Faults, ConfigError> {
    const EXPECTED: &str = "a duration from 1s to 1d";
    Ok(Faults {
        clear_after_ns: check.duration("faults.clear_after", &raw.clear_after, 30 * SECOND, SECOND..=DAY, EXPECTED)?,
        close_after_ns: check.duration("faults.close_after", &raw.close_after, 30 * SECOND, SECOND..=DAY, EXPECTED)?,
    })
}
