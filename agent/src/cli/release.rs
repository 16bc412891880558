//! `release` and `actions`: the journals in; everything of a dead agent taken back, or the story of its actions, out.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{CliError, FINDING, OutputArgs, crew, print};
use crate::{
    heal::{
        journal::{Entry, Kind, read_all},
        release::release as take_back,
        restore::describe,
    },
    kernel::KernelFacts,
    kernel::Root,
    model::{
        action::{Decision, Outcome, Reason},
        entity::Entity,
    },
};

/// Arguments of `release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {}

/// Arguments of `actions`.
#[derive(Debug, clap::Args)]
pub struct ActionsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Takes back what an agent that is gone froze or limited. Status 1 when something could not be taken back.
pub(super) fn release(_: &ReleaseArgs) -> Result<ExitCode, CliError> {
    let layout = KernelFacts::gather(&Root::live()).cgroups;
    let report = take_back(&crew::paths(), &layout)?;
    let mut text = String::new();
    for line in report.actions.iter().map(describe).chain(report.problems.iter().cloned()) {
        text.push_str(&line);
        text.push('\n');
    }
    if text.is_empty() {
        text.push_str("nothing was left behind\n");
    }
    print(&text)?;
    let bad = report.is_incomplete() || !report.problems.is_empty();
    Ok(if bad { ExitCode::from(FINDING) } else { ExitCode::SUCCESS })
}

/// Lists the journal, oldest first. Status 1 when a part of it cannot be read.
pub(super) fn actions(args: &ActionsArgs) -> Result<ExitCode, CliError> {
    let layout = KernelFacts::gather(&Root::live()).cgroups;
    let (entries, errors) = read_all(&crew::paths(), &layout);
    let text: String = entries.iter().map(|entry| if args.output.json { line(entry) } else { words(entry) }).collect();
    print(&text)?;
    for error in &errors {
        tracing::error!(%error, "the journal");
    }
    Ok(if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDING) })
}

/// What a journal entry says, by the words of an `action` line.
struct Told {
    decision: &'static str,
    reason: Option<&'static str>,
    started_ns: Option<u64>,
    finished_ns: Option<u64>,
    outcome: Option<&'static str>,
    state: &'static str,
}

impl Told {
    fn of(entry: &Entry) -> Self {
        let done = entry.done.as_ref();
        let started = done.map(|done| done.started_ns).filter(|at| *at != 0);
        let refused = done.is_some_and(|done| done.started_ns == 0);
        Self {
            decision: if refused { Decision::Refused } else { Decision::Executed }.name(),
            reason: done.and_then(|done| done.reason).map(Reason::name),
            started_ns: started,
            finished_ns: done.filter(|_| started.is_some()).map(|done| done.finished_ns),
            outcome: entry.outcome.map(Outcome::name),
            state: match (&entry.settled, done) {
                (Some(_), _) => "settled",
                (None, Some(_)) => "done",
                (None, None) => "half_done",
            },
        }
    }
}

fn target(entry: &Entry) -> (String, String) {
    let entity = entry.request.target;
    let name = match (&entry.name, entity) {
        (Some(name), _) => name.clone(),
        (None, Entity::Cgroup(_, id)) => {
            let path =
                entry.undo.changes.first().map(|change| change.place.path.clone()).filter(|path| !path.is_empty());
            path.unwrap_or_else(|| format!("cgroup#{id}"))
        }
        (None, Entity::Process(pid)) => pid.to_string(),
        (None, Entity::Unit(key)) => format!("unit#{key:016x}"),
        (None, _) => "unknown".into(),
    };
    (entity.kind().into(), name)
}

fn line(entry: &Entry) -> String {
    let told = Told::of(entry);
    let (kind, name) = target(entry);
    let settled: Option<Value> = entry.settled.as_ref().map(|settled| json!(settled));
    let value = json!({
        "id": format!("a{}", entry.request.id),
        "fault": format!("f{}", entry.request.fault),
        "verb": entry.request.verb.name(),
        "target": { "kind": kind, "name": name },
        "decision": told.decision,
        "reason": told.reason,
        "started_ns": told.started_ns,
        "finished_ns": told.finished_ns,
        "outcome": told.outcome,
        "state": told.state,
        "journal": if entry.journal == Kind::Reflex { "reflex" } else { "recovery" },
        "boot_id": entry.session.boot_id,
        "agent_pid": entry.session.pid,
        "intended_ns": entry.at_ns,
        "settled": settled,
    });
    format!("{value}\n")
}

fn words(entry: &Entry) -> String {
    let told = Told::of(entry);
    let (kind, name) = target(entry);
    let mut text = format!(
        "agent {:<7} a{:<4} f{:<4} {:<13} {kind} {name}: {}",
        entry.session.pid,
        entry.request.id,
        entry.request.fault,
        entry.request.verb.name(),
        if told.state == "done" { told.decision } else { told.state }
    );
    for word in [told.reason, told.outcome].into_iter().flatten() {
        text.push_str(", ");
        text.push_str(word);
    }
    text.push('\n');
    text
}
