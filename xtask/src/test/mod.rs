//! `cargo xtask test`: every check there is, as named steps. In: the work tree. Out: a table of where the time went, and `N passed, N failed`.
//!
//! Each step is one command line run in its own process, with its whole output in `target/test-logs/STEP.log` and only the end of it on the
//! screen when it fails. A new check is one line in [`STEPS`].

mod steps;

use std::fs::File;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use steps::{CI_ONLY, STEPS, Step};

use crate::{process, ui, workspace};

/// Lines of a failed step's log that are shown.
const TAIL: usize = 40;

/// Run every check: formatting, lints, unit tests, tests on this machine, tests in VMs.
#[derive(clap::Args)]
pub struct Args {
    /// Run only this step (may be given several times).
    #[arg(long, value_name = "STEP", value_parser = steps::find)]
    only: Vec<&'static Step>,
    /// List the steps and stop.
    #[arg(long)]
    list: bool,
}

/// Runs the command.
///
/// # Errors
/// As [`run`].
pub fn main(args: &Args) -> Result<ExitCode> {
    if args.list {
        for step in STEPS.iter().chain(CI_ONLY) {
            let note = if CI_ONLY.iter().any(|other| other.name == step.name) { " (ci only)" } else { "" };
            ui::say(format!("{:14} {}{note}", step.name, step.about));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let all: Vec<&Step> = STEPS.iter().collect();
    run(if args.only.is_empty() { &all } else { &args.only })
}

/// How a step ended.
enum Verdict {
    Passed,
    Failed,
    /// An earlier step, without which this one means nothing, failed.
    NotRun,
}

/// Runs these steps in order and prints the table.
///
/// # Errors
/// Logs cannot be written; a failing step is no error but exit status 1.
pub fn run(steps: &[&Step]) -> Result<ExitCode> {
    let folder = workspace::target().join("test-logs");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut rows: Vec<(&str, Verdict, Duration)> = Vec::new();
    let mut broken = false;
    for step in steps {
        let clock = ui::Clock::start();
        let verdict = if broken { Verdict::NotRun } else { one(step)? };
        broken |= step.essential && !matches!(verdict, Verdict::Passed);
        rows.push((step.name, verdict, clock.elapsed()));
    }
    Ok(summary(&rows))
}

/// Runs one step and reports it.
fn one(step: &Step) -> Result<Verdict> {
    let log = workspace::target().join("test-logs").join(format!("{}.log", step.name));
    ui::say(format!("{:14} {} ...", step.name, step.about));
    let clock = ui::Clock::start();
    match execute(step, &log) {
        Ok(()) => {
            ui::say(format!("{:14} passed in {}", step.name, clock.text()));
            Ok(Verdict::Passed)
        }
        Err(error) => {
            let text = std::fs::read(&log).unwrap_or_default();
            ui::say(process::tail(&String::from_utf8_lossy(&text), TAIL));
            ui::say(format!(
                "{:14} FAILED after {}: {error:#} (whole output: {})",
                step.name,
                clock.text(),
                log.display()
            ));
            Ok(Verdict::Failed)
        }
    }
}

fn execute(step: &Step, log: &std::path::Path) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    // Bound to us, because Ctrl-C reaches only the terminal's own process group.
    let mut command = process::bound_to_us("TERM", &process::limited(&step.command(), step.limit_s));
    // Logs are read in editors and on build servers.
    command.envs([("CARGO_TERM_COLOR", "never"), ("TERM", "dumb")]);
    command.current_dir(workspace::root()).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot start `{}`", process::describe(&command)))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(124 | 137) => bail!("`{}` did not end within {} s", step.line(), step.limit_s),
        _ => bail!("`{}` ended with {status}", step.line()),
    }
}

fn summary(rows: &[(&str, Verdict, Duration)]) -> ExitCode {
    ui::say("\nstep             verdict      time");
    for (name, verdict, took) in rows {
        let word = match verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::NotRun => "not run",
        };
        ui::say(format!("{name:16} {word:8} {:>8}", ui::seconds(*took)));
    }
    let total: Duration = rows.iter().map(|(_, _, took)| *took).sum();
    let passed = rows.iter().filter(|(_, verdict, _)| matches!(verdict, Verdict::Passed)).count();
    ui::say(format!("{:16} {:8} {:>8}\n", "all", "", ui::seconds(total)));
    ui::say(format!("{passed} passed, {} failed", rows.len() - passed));
    if passed == rows.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
