//! What each kernel offers. In: the running kernel's release. Out: agreement of `doctor` and of `health` lines with
//! `tests/kernels.toml`, the support promise.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use faultline::{clock::monotonic_ns, sensor};
use serde::Deserialize;
use serde_json::Value;

use crate::{agent, inject};

const PROMISE: &str = include_str!("../../kernels.toml");

#[derive(Deserialize)]
struct Promise {
    kernel: BTreeMap<String, Kernel>,
    rung: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

#[derive(Deserialize)]
struct Kernel {
    release: String,
    #[serde(flatten)]
    sensors: BTreeMap<String, Sensor>,
}

#[derive(Deserialize)]
struct Sensor {
    hook: String,
    missing: Vec<String>,
}

impl Promise {
    fn read() -> Result<Self> {
        toml::from_str(PROMISE).context("tests/kernels.toml")
    }

    /// The table of a kernel: the one with the longest fitting start.
    fn of(&self, release: &str) -> Result<&Kernel> {
        let fitting = self.kernel.values().filter(|kernel| release.starts_with(&kernel.release));
        let best = fitting.max_by_key(|kernel| kernel.release.len());
        best.with_context(|| format!("tests/kernels.toml promises nothing for {release}"))
    }

    /// Fields that a sensor must miss on a kernel through a rung.
    fn missing<'a>(&'a self, kernel: &'a Kernel, sensor: &str, rung: &str) -> Result<BTreeSet<&'a str>> {
        let of_kernel = &kernel.sensors.get(sensor).with_context(|| format!("no promise for {sensor}"))?.missing;
        let of_rung = self.rung.get(rung).and_then(|sensors| sensors.get(sensor)).into_iter().flatten();
        Ok(of_kernel.iter().chain(of_rung).map(String::as_str).collect())
    }
}

/// Holds `health` lines against the promise, of those sensors that use `rung`.
///
/// # Errors
/// The first sensor that differs.
pub fn judge(release: &str, lines: &[agent::Line], rung: &str) -> Result<()> {
    let promise = Promise::read()?;
    let kernel = promise.of(release)?;
    for spec in sensor::SENSORS {
        let line = health(lines, spec.name)?;
        if line["hook"] != rung {
            // Only the forced sensors use this rung.
            continue;
        }
        let missing = promise.missing(kernel, spec.name, rung)?;
        let found: BTreeSet<_> = line["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let state = if missing.is_empty() { "ok" } else { "degraded" };
        ensure!(
            line["state"] == state && found == missing,
            "{} on {release} should be {state}, missing {missing:?}: {line}",
            spec.name
        );
    }
    Ok(())
}

fn health<'a>(lines: &'a [agent::Line], sensor: &str) -> Result<&'a Value> {
    let line = lines.iter().find(|line| line.kind() == "health" && line.value["sensor"] == sensor);
    Ok(&line.with_context(|| format!("no health of {sensor}"))?.value)
}

/// `doctor` on this kernel.
///
/// # Errors
/// It fails, or breaks the promise.
pub fn doctor() -> Result<()> {
    let start = monotonic_ns();
    let ended = agent::run(&["doctor", "--json"])?;
    ensure!(ended.code()? == 0, "doctor ended with {}: {}", ended.status, ended.stderr);
    let release = inject::kernel_release()?;
    let promise = Promise::read()?;
    for (sensor, promised) in &promise.of(&release)?.sensors {
        let hook = &health(&ended.lines, sensor)?["hook"];
        ensure!(hook == promised.hook.as_str(), "{sensor} on {release} should use {}, not {hook}", promised.hook);
        judge(&release, &ended.lines, &promised.hook)?;
    }
    super::step(start, "doctor keeps the promise of tests/kernels.toml");
    Ok(())
}
