//! `replay`: a recording in, the lines of its live run out.

use std::{path::PathBuf, process::ExitCode};

use super::{CliError, FINDING, OutputArgs, configuration, print};
use crate::{
    config::{Config, Mode},
    decode::Decoder,
    engine::Engine,
    export::{Exporter, HealthLine, Summary},
    model::output::{LossReason, Output},
    reactor::{self, NoHands},
    source::{recording::Header, replay::Replay},
};

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// The recording.
    file: PathBuf,
    /// Judge by this configuration instead of the recorded one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Text that is printed at once when it has grown to this many bytes.
const CHUNK: usize = 1 << 16;

/// Replays a recording. A damaged one gives its intact prefix, a `loss` line and status 1.
pub(super) fn replay(args: &ReplayArgs) -> Result<ExitCode, CliError> {
    let mut source = Replay::open(&args.file)?;
    let header = source.header().clone();
    let config = match &args.config {
        Some(path) => {
            // Nothing of what was really done belongs to this policy: its actions are dry runs.
            source.for_another_policy();
            configuration(Some(path), Some(Mode::Observe))?.0
        }
        None => recorded_configuration(&header, &args.file.display().to_string())?,
    };
    let table = |source| CliError::Table { path: args.file.display().to_string(), source };
    let decoder = Decoder::for_recording(&header.sensors).map_err(table)?;
    let mut exporter = Exporter::new(header.anchor, args.output.format(), config.events);
    let mut text = String::new();
    health(&exporter, &header, &mut text);
    let mut engine = engine(&config, &header, &args.file.display().to_string(), args.config.is_some())?;
    let mut printed = Ok(());
    let mut damaged = false;
    let tally = reactor::run(&mut source, &decoder, &mut engine, &mut NoHands, &mut |output, decided| {
        damaged |= is_damage(output);
        exporter.output(output, decided, &mut text);
        if text.len() >= CHUNK && printed.is_ok() {
            printed = print(&text);
            text.clear();
        }
    });
    printed?;
    exporter.summary(&Summary::new(&engine, tally, 0), &mut text);
    print(&text)?;
    match source.error() {
        Some(error) => Err(error.into()),
        None if damaged => Ok(ExitCode::from(FINDING)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// An engine in the state in which the recording began. Under another policy it knows nothing of what the recorded one
/// had decided before.
pub(super) fn engine(config: &Config, header: &Header, file: &str, other: bool) -> Result<Engine, CliError> {
    let mut engine = Engine::new(config);
    if !header.snapshot.is_empty() {
        let done = engine.load(&header.snapshot, !other);
        done.map_err(|source| CliError::Snapshot { path: file.to_owned(), source })?;
    }
    Ok(engine)
}

/// The configuration that the live run had.
pub(super) fn recorded_configuration(header: &Header, file: &str) -> Result<Config, CliError> {
    let mut config = Config::parse(&header.config_toml, &format!("{file} (recorded configuration)"))?;
    config.mode = if header.mode == Mode::Act.name() { Mode::Act } else { Mode::Observe };
    Ok(config)
}

fn health(exporter: &Exporter, header: &Header, text: &mut String) {
    for sensor in &header.sensors {
        let line = HealthLine {
            sensor: &sensor.name,
            state: &sensor.health,
            hook: sensor.hook.as_deref(),
            missing: sensor.missing.iter().map(String::as_str).collect(),
            error: None,
        };
        exporter.health(&line, header.anchor.monotonic_ns, text);
    }
}

fn is_damage(output: &Output) -> bool {
    matches!(output, Output::Loss(loss) if loss.reason == LossReason::RecordingDamaged)
}
