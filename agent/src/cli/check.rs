//! `check`: a configuration in, what it means in words out.

use std::{path::PathBuf, process::ExitCode};

use super::{CliError, configuration, policy_words, print};
use crate::{
    config::{Config, REFERENCE, Spin},
    model::entity::comm_text,
    sensor::SENSORS,
};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The configuration file (TOML).
    file: PathBuf,
}

/// Every key with its default, for `--help`.
pub fn reference() -> String {
    format!("Every key, with its default:\n\n{REFERENCE}")
}

/// Checks a configuration; an invalid one is bad input.
pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, CliError> {
    let (config, _) = configuration(Some(&args.file), None)?;
    print(&explain(&config, &args.file.display().to_string()))?;
    Ok(ExitCode::SUCCESS)
}

fn explain(config: &Config, name: &str) -> String {
    let mut lines = vec![format!("{name} is valid.")];
    lines.extend(policy_words::explain(config));
    let on = |wanted: bool| {
        let names: Vec<_> =
            SENSORS.iter().filter(|s| config.sensors[usize::from(s.number)] == wanted).map(|s| s.name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    lines.push(format!("Sensors on: {}; off: {}.", on(true), on(false)));
    lines.push(match config.reactor.spin {
        Spin::Never => "The reactor sleeps as soon as the rings are empty.".into(),
        Spin::Adaptive(ns) => format!("The reactor spins for {} after an event, then sleeps.", duration(ns)),
        Spin::Always => "The reactor spins always and takes a whole CPU.".into(),
    });
    let d = &config.detect;
    lines.push(format!(
        "crash_loop: {} deaths of the same unit or executable within {}, each after a new start.",
        d.crash_loop.count,
        duration(d.crash_loop.window_ns)
    ));
    lines.push(format!(
        "disk_latency: {} I/Os slower than {} (rotating disks: {}) within {}, or p99 above {} and {} times its baseline.",
        d.disk_latency.burst,
        duration(d.disk_latency.outlier_ns),
        duration(d.disk_latency.rotational_outlier_ns),
        duration(d.disk_latency.burst_window_ns),
        duration(d.disk_latency.floor_ns),
        d.disk_latency.factor
    ));
    lines.push(format!(
        "retransmit_storm: {} retransmits to a peer within {}, at least {} per thousand segments and {} times what is usual.",
        d.retransmit_storm.count,
        duration(d.retransmit_storm.window_ns),
        d.retransmit_storm.share_permille,
        d.retransmit_storm.factor
    ));
    lines.push(format!(
        "process_crash at once for core-dumping signals; for any failure of the main process of: {}.",
        list(&config.watch.units)
    ));
    let executables: Vec<_> = config.watch.executables.iter().map(comm_text).collect();
    lines.push(format!("Non-zero statuses count towards a crash loop for units and for: {}.", list(&executables)));
    lines.push(format!(
        "A fault clears after {} of quiet and closes after another {}.",
        duration(config.faults.clear_after_ns),
        duration(config.faults.close_after_ns)
    ));
    lines.push(match &config.flight {
        flight if !flight.enabled => "The flight recorder is off.".into(),
        flight => format!(
            "When a fault opens, the last {} of all inputs go to {}; {} such recordings are kept.",
            duration(flight.window_ns),
            flight.directory().display(),
            flight.keep
        ),
    });
    lines.push(String::new());
    lines.join("\n")
}

pub(super) fn duration(ns: u64) -> String {
    humantime::format_duration(std::time::Duration::from_nanos(ns)).to_string()
}

pub(super) fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}
