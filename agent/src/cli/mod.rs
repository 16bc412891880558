//! The command line: arguments in, one command run, an exit status out: 0 good, 1 a finding, 2 bad input.
//! The only module that prints.

mod check;
mod crew;
mod doctor;
mod drill;
mod policy_words;
mod release;
mod replay;
mod run;
mod running;
mod session;
mod simulate;
mod watch;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use thiserror::Error;

use crate::{
    config::{Config, ConfigError, Mode},
    drill::DrillError,
    export::Format,
    heal::release::ReleaseError,
    model::snapshot::SnapshotError,
    privilege::LockError,
    sensor::loader::LoadError,
    source::{recording::RecordingError, replay::ReplayError},
};

/// Exit status: something is wrong with what was looked at.
pub const FINDING: u8 = 1;
/// Exit status: the command line, a configuration or a file is not what it should be.
pub const BAD_INPUT: u8 = 2;

/// Feels faults in the kernel (TCP retransmits, OOM kills, slow or failing disks, crashing processes) and
/// reports them within microseconds.
#[derive(Debug, Parser)]
#[command(name = "faultline", version, max_term_width = 110)]
#[command(
    after_help = "Exit status: 0 good, 1 a finding, 2 bad input. Diagnostics go to standard error; -v or RUST_LOG sets how many."
)]
pub struct Cli {
    /// More diagnostics on standard error, with the programs' own log records from -vv on.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Watch this machine and report what it feels.
    Run(run::RunArgs),
    /// Watch and record; the same as `run --mode observe --record FILE`.
    Record(run::RecordArgs),
    /// Run a recording through the same engine; prints what the live run printed.
    Replay(replay::ReplayArgs),
    /// Say what faultline can feel on this machine, and what is missing.
    Doctor(doctor::DoctorArgs),
    /// Check a configuration and say in words what it means.
    #[command(after_long_help = check::reference())]
    Check(check::CheckArgs),
    /// Show what a new policy would have decided on recordings, as a difference.
    Simulate(simulate::SimulateArgs),
    /// List the journal: every action of this and earlier agents, and what came of it.
    Actions(release::ActionsArgs),
    /// Take back by hand what an agent that is gone froze or limited.
    Release(release::ReleaseArgs),
    /// Cause small faults in throw-away targets on this machine and see that each is felt.
    Drill(drill::DrillArgs),
    /// The agent's own child that takes back what a dead agent left; not for people.
    #[command(hide = true)]
    Guardian {
        /// The reflex journal and the recovery journal.
        journals: Vec<std::ffi::OsString>,
    },
    /// A drill's own process; not for people.
    #[command(hide = true)]
    DrillHelper {
        /// What to be.
        role: String,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// How lines are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
struct OutputArgs {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    /// JSON if asked for, else text, with colour only on a terminal and without NO_COLOR.
    fn format(self) -> Format {
        if self.json {
            return Format::Json;
        }
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Format::Text { colour: !plain && std::io::stdout().is_terminal() }
    }
}

/// Why a command could not do its work.
#[derive(Debug, Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Recording(#[from] RecordingError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error("{path}: {source}")]
    Table { path: String, source: crate::decode::TableError },
    #[error("{path}: {source}")]
    Snapshot { path: String, source: SnapshotError },
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Drill(#[from] DrillError),
    #[error(transparent)]
    Guardian(#[from] crate::heal::guardian::GuardianError),
    #[error(
        "--hook {given}: expected SENSOR=RUNG with SENSOR one of {sensors} and RUNG one of tp_btf, raw_tp, tracepoint"
    )]
    Hook { given: String, sensors: String },
    #[error(
        "the reactor thread panicked, so nothing was judged after that; its message is above: please report it with the recording, if there is one"
    )]
    Reactor,
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    #[error("{what}: {source}; too many open files or too little memory for the agent")]
    System { what: &'static str, source: std::io::Error },
}

impl CliError {
    fn system(what: &'static str) -> impl Fn(nix::Error) -> Self {
        move |errno| Self::System { what, source: errno.into() }
    }

    fn status(&self) -> u8 {
        match self {
            Self::Config(_)
            | Self::Recording(_)
            | Self::Replay(_)
            | Self::Table { .. }
            | Self::Snapshot { .. }
            | Self::Hook { .. } => BAD_INPUT,
            Self::Drill(DrillError::UnknownDrill { .. }) => BAD_INPUT,
            _ => FINDING,
        }
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_diagnostics(cli.verbose);
    let debug = cli.verbose >= 2;
    let done = match cli.command {
        Command::Run(args) => run::run(&args, debug),
        Command::Record(args) => run::run(&args.into(), debug),
        Command::Replay(args) => replay::replay(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Check(args) => check::check(&args),
        Command::Drill(args) => drill::drill(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Actions(args) => release::actions(&args),
        Command::Release(args) => release::release(&args),
        Command::Guardian { journals } => {
            crate::heal::guardian::main(&journals).map(|()| ExitCode::SUCCESS).map_err(CliError::from)
        }
        Command::DrillHelper { role, args } => {
            crate::drill::helper_main(&role, &args).map(|()| ExitCode::SUCCESS).map_err(CliError::from)
        }
    };
    match done {
        Ok(status) => status,
        // Whoever closed the pipe knows; there is nobody to tell.
        Err(CliError::Print(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "faultline: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// tracing to standard error; what was granted and what not unless -v or RUST_LOG asks for more or less.
fn init_diagnostics(verbose: u8) {
    let default = if verbose == 0 { "info" } else { "debug" };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(std::io::stderr);
    // Fails only when something else has set one, which nothing does.
    let _ = tracing::subscriber::set_global_default(subscriber.finish());
    let _ = tracing_log::LogTracer::init();
}

/// Reads a configuration, or takes the defaults, and applies `--mode`.
fn configuration(path: Option<&PathBuf>, mode: Option<Mode>) -> Result<(Config, String), CliError> {
    let (mut config, text) = match path {
        Some(path) => Config::load(path)?,
        None => (Config::default(), String::new()),
    };
    config.mode = mode.unwrap_or(config.mode);
    Ok((config, text))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; expected a duration such as 10s or 5m"))
}

/// Prints text that is complete.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
