//! `drill`: the fire drill's reports as lines.

use std::process::ExitCode;

use serde_json::json;

use super::{CliError, FINDING, OutputArgs, print};
use crate::{
    clock,
    drill::{self, AgentCommand, DrillReport, DrillState},
    export::Format,
    source::recording::ClockAnchor,
};

/// Arguments of `drill`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Drills: crash, crash-loop, oom, disk, net. Each makes its own throw-away target (a child process, a memory cgroup, a loop device over its own slow file system, two unnamed network namespaces), causes one fault in it, and removes it."
)]
pub struct DrillArgs {
    /// The drills to run; all when none is named.
    names: Vec<String>,
    /// Also heal: the agent runs in mode `act` with a policy whose scope is the throw-away cgroup of the drill `oom`.
    #[arg(long)]
    heal: bool,
    /// Remove what killed drills left behind, and do nothing else.
    #[arg(long, conflicts_with = "names")]
    clean: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs drills; status 1 when one failed.
pub(super) fn drill(args: &DrillArgs) -> Result<ExitCode, CliError> {
    if args.clean {
        drill::clean(&mut |what| drop(print(&format!("removed {what}\n"))))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (anchor, format) = (clock::anchor(), args.output.format());
    let mut printed = Ok(());
    let good = drill::run(&args.names, AgentCommand::default(), args.heal, &mut |report| {
        if printed.is_ok() {
            printed = print(&line(&anchor, format, report));
        }
    })?;
    printed?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FINDING) })
}

fn line(anchor: &ClockAnchor, format: Format, report: &DrillReport) -> String {
    match format {
        Format::Json => json_line(anchor, report),
        Format::Text { colour } => text_line(report, colour),
    }
}

fn json_line(anchor: &ClockAnchor, report: &DrillReport) -> String {
    let line = json!({
        "type": "drill",
        "time": clock::rfc3339(anchor, clock::monotonic_ns()).to_string(),
        "name": report.name,
        "state": report.state.as_str(),
        "kind": report.kind,
        "expected_kind": report.expected_kind,
        "injected_ns": report.injected_ns,
        "detected_ns": report.detected_ns,
        "healed": report.healed,
        "recovered_ns": report.recovered_ns,
        "reason": report.reason,
    });
    format!("{line}\n")
}

fn text_line(report: &DrillReport, colour: bool) -> String {
    let (code, reset) = match (colour, &report.state) {
        (false, _) => ("", ""),
        (true, DrillState::Passed) => ("\x1b[32m", "\x1b[0m"),
        (true, DrillState::Failed) => ("\x1b[31m", "\x1b[0m"),
        (true, DrillState::Skipped) => ("\x1b[33m", "\x1b[0m"),
    };
    let took = match (report.injected_ns, report.detected_ns) {
        (Some(from), Some(to)) => format!(" {:.1} ms after the injection", to.saturating_sub(from) as f64 / 1e6),
        _ => String::new(),
    };
    let healed = match (report.injected_ns, report.recovered_ns) {
        (Some(from), Some(to)) => format!(", healed {:.1} ms after it", to.saturating_sub(from) as f64 / 1e6),
        _ => String::new(),
    };
    let reason = report.reason.as_ref().map_or(String::new(), |r| format!(" {r}"));
    let state = report.state.as_str();
    format!(
        "{:<11} {code}{state:<8}{reset} {}{took}{healed}{reason}\n",
        report.name,
        report.kind.as_deref().unwrap_or("-")
    )
}
