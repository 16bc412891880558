//! `simulate`: recordings and a new policy in; what it would have decided, beside what was decided, out.
//!
//! Under another policy than the recorded one nothing was really done, so the new decisions are dry runs: budgets,
//! cool-downs and steps go on as if they had been done, and no outcome is claimed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use serde_json::json;

use super::{CliError, FINDING, OutputArgs, configuration, print, replay};
use crate::{
    config::{Config, Mode},
    decode::Decoder,
    export::{Exporter, Format},
    model::{
        action::{Action, Decision, Reason},
        fault::Kind,
        output::Output,
    },
    reactor::{self, NoHands},
    source::replay::Replay,
};

/// Arguments of `simulate`.
#[derive(Debug, clap::Args)]
pub struct SimulateArgs {
    /// The new policy: a whole configuration file.
    #[arg(long, value_name = "NEW")]
    config: PathBuf,
    /// The recordings to judge it on.
    #[arg(required = true, value_name = "RECORDING")]
    recordings: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// One decision, told so that two runs can be compared: by names, not by numbers that count differently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Decided {
    fault: &'static str,
    entity: String,
    verb: &'static str,
    target: String,
    decision: &'static str,
    reason: Option<&'static str>,
}

/// Shows the decisions of a new policy as a difference. Status 1 when there is one.
pub(super) fn simulate(args: &SimulateArgs) -> Result<ExitCode, CliError> {
    let (new, _) = configuration(Some(&args.config), Some(Mode::Observe))?;
    let mut differs = false;
    for path in &args.recordings {
        let name = path.display().to_string();
        let recorded = decisions(path, None)?;
        let simulated = decisions(path, Some(&new))?;
        let text = compare(&name, &recorded, &simulated, args.output.format(), &mut differs);
        print(&text)?;
    }
    Ok(if differs { ExitCode::from(FINDING) } else { ExitCode::SUCCESS })
}

/// Every decision in a recording, each as often as it was made; executed and dry runs are the same decision.
fn decisions(path: &Path, new: Option<&Config>) -> Result<Vec<(Decided, usize)>, CliError> {
    let name = path.display().to_string();
    let mut source = Replay::open(path)?;
    let header = source.header().clone();
    let config = match new {
        Some(new) => {
            source.for_another_policy();
            new.clone()
        }
        None => replay::recorded_configuration(&header, &name)?,
    };
    let table = |source| CliError::Table { path: name.clone(), source };
    let decoder = Decoder::for_recording(&header.sensors).map_err(table)?;
    let mut engine = replay::engine(&config, &header, &name, new.is_some())?;
    let mut exporter = Exporter::new(header.anchor, Format::Json, false);
    let mut faults: BTreeMap<u64, (Kind, String)> = BTreeMap::new();
    let mut order: Vec<(Decided, usize)> = Vec::new();
    let mut unseen = String::new();
    reactor::run(&mut source, &decoder, &mut engine, &mut NoHands, &mut |output, decided| {
        exporter.output(output, decided, &mut unseen);
        unseen.clear();
        match output {
            Output::Fault(fault) => _ = faults.insert(fault.id, (fault.kind, exporter.names().entity(&fault.entity))),
            Output::Action(action) if action.outcome.is_none() => {
                let told = told(action, &faults, &exporter);
                match order.iter_mut().find(|(known, _)| *known == told) {
                    Some((_, count)) => *count += 1,
                    None => order.push((told, 1)),
                }
            }
            _ => {}
        }
    });
    match source.error() {
        Some(error) => Err(error.into()),
        None => Ok(order),
    }
}

fn told(action: &Action, faults: &BTreeMap<u64, (Kind, String)>, exporter: &Exporter) -> Decided {
    let (fault, entity) = faults.get(&action.fault).map_or(("unknown", String::new()), |(k, e)| (k.name(), e.clone()));
    let decision = match action.decision {
        Decision::Executed | Decision::DryRun => "act",
        Decision::Refused => "refuse",
    };
    let target = format!("{} {}", action.target.kind(), exporter.names().entity(&action.target));
    Decided { fault, entity, verb: action.verb.name(), target, decision, reason: action.reason.map(Reason::name) }
}

fn compare(
    recording: &str,
    recorded: &[(Decided, usize)],
    simulated: &[(Decided, usize)],
    format: Format,
    differs: &mut bool,
) -> String {
    let mut all: Vec<&Decided> = recorded.iter().map(|(decided, _)| decided).collect();
    all.extend(simulated.iter().map(|(decided, _)| decided).filter(|d| recorded.iter().all(|(r, _)| r != *d)));
    let count = |of: &[(Decided, usize)], what: &Decided| of.iter().find(|(d, _)| d == what).map_or(0, |(_, n)| *n);
    let mut text = if format == Format::Json { String::new() } else { format!("{recording}\n") };
    for decided in &all {
        let (before, after) = (count(recorded, decided), count(simulated, decided));
        let change = match (before, after) {
            (0, _) => "added",
            (_, 0) => "removed",
            (a, b) if a != b => "changed",
            _ => "same",
        };
        *differs |= change != "same";
        text.push_str(&line(recording, decided, change, before, after, format));
    }
    if all.is_empty() && format != Format::Json {
        text.push_str("  no decision, before or after\n");
    }
    text
}

fn line(recording: &str, d: &Decided, change: &str, before: usize, after: usize, format: Format) -> String {
    if format == Format::Json {
        let value = json!({
            "recording": recording, "change": change, "fault": d.fault, "entity": d.entity, "verb": d.verb,
            "target": d.target, "decision": d.decision, "reason": d.reason, "recorded": before, "simulated": after,
        });
        return format!("{value}\n");
    }
    let mark = match change {
        "added" => '+',
        "removed" => '-',
        "changed" => '~',
        _ => ' ',
    };
    let why = d.reason.map_or(String::new(), |reason| format!(" ({reason})"));
    format!(
        "{mark} {} of {}: {} {} on {}{why}, {before} -> {after} times\n",
        d.fault, d.entity, d.decision, d.verb, d.target
    )
}
