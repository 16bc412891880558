//! `run` and `record`: arguments in, a [`session`](super::session) run until its time is over or it is stopped.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};

use super::{CliError, OutputArgs, configuration, parse_duration, session};
use crate::{
    config::Mode,
    sensor::{SENSORS, loader},
};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Configuration file (TOML); `faultline check --help` lists every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides the configuration's mode.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Stop after this time, such as 10s or 5m; default: run until SIGINT or SIGTERM.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Record every input into this file, for `faultline replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Keep no flight recording, whatever the configuration says.
    #[arg(long)]
    no_flight: bool,
    /// Use only this rung of a sensor's ladder, such as oom_kill=tracepoint; may be repeated.
    #[arg(long = "hook", value_name = "SENSOR=RUNG")]
    hooks: Vec<String>,
    /// Treat a kernel field as absent, such as arg_group_dead; for tests.
    #[arg(long, value_name = "OFFSET", hide = true)]
    without: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Arguments of `record`.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The recording to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stop after this time, such as 10s or 5m; default: run until SIGINT or SIGTERM.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    output: OutputArgs,
}

impl From<RecordArgs> for RunArgs {
    fn from(args: RecordArgs) -> Self {
        Self {
            config: args.config,
            mode: Some(Mode::Observe),
            duration: args.duration,
            record: Some(args.out),
            no_flight: false,
            hooks: Vec::new(),
            without: Vec::new(),
            output: args.output,
        }
    }
}

/// Runs the agent.
pub(super) fn run(args: &RunArgs, debug: bool) -> Result<ExitCode, CliError> {
    let (mut config, config_toml) = configuration(args.config.as_ref(), args.mode)?;
    config.flight.enabled &= !args.no_flight;
    let options = loader::Options { hooks: hooks(&args.hooks)?, without: args.without.clone(), debug };
    let plan = session::Plan {
        config,
        config_toml,
        options,
        duration: args.duration,
        record: args.record.clone(),
        format: args.output.format(),
    };
    session::run(plan)
}

/// `SENSOR=RUNG` pairs, checked against the list of sensors.
pub(super) fn hooks(given: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let words = || SENSORS.map(|s| s.name).join(", ");
    let mut hooks = BTreeMap::new();
    for text in given {
        let pair = text.split_once('=').filter(|(sensor, rung)| {
            let is_sensor = SENSORS.iter().any(|s| s.name == *sensor);
            is_sensor && matches!(*rung, "tp_btf" | "raw_tp" | "tracepoint")
        });
        let Some((sensor, rung)) = pair else { return Err(CliError::Hook { given: text.clone(), sensors: words() }) };
        hooks.insert(sensor.to_owned(), rung.to_owned());
    }
    Ok(hooks)
}
