//! Taking back what a dead agent left behind. In: the journals; out: frozen cgroups thawed, limits as they were, and a report.
//!
//! First the deed, then its record: taking back is safe to repeat (a value that is back already is left alone), whereas a
//! disk that hangs must not keep a cgroup frozen. The recovery journal's lock is held throughout, so that guardian, next
//! agent and operator never do it at the same time; an unreadable journal is no reason to leave what can be read undone.

use serde::Serialize;

use super::cgroup::{Dir, Restored, find};
use super::journal::{
    By, Entry, JournalError, Kind, Paths, Record, RecoveryJournal, ReflexJournal, boot_id, fold, merge, outstanding,
};
use super::protect::stat;
use crate::clock;
use crate::kernel::{CgroupLayout, Purpose};
use crate::model::action::Verb;
use crate::model::entity::{Entity, Tree};

/// What one action came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Restoration {
    /// The action, as it was found.
    pub entry: Entry,
    /// What taking back each change came to, in the order of the undo; empty when there was none.
    pub restored: Vec<Restored>,
    /// For what cannot be taken back: whether it holds; `None`: nobody can tell.
    pub healthy: Option<bool>,
}

/// What was found and done.
#[derive(Debug, Default)]
pub struct Report {
    /// Every action that was seen to, last one first.
    pub actions: Vec<Restoration>,
    /// What could not be done or read, in words.
    pub problems: Vec<String>,
}

impl Report {
    /// Whether something is still frozen or limited that should not be.
    pub fn is_incomplete(&self) -> bool {
        self.actions.iter().any(|action| action.restored.contains(&Restored::Failed))
    }

    /// How many changes were really taken back.
    pub fn restored(&self) -> usize {
        self.actions.iter().flat_map(|action| &action.restored).filter(|one| **one == Restored::Restored).count()
    }
}

/// Takes everything back. The journal is handed out where it could be opened, still locked.
///
/// # Errors
/// [`JournalError::Busy`]: somebody else is at it, or an agent runs; [`JournalError::Session`]. Nothing was done then. All
/// other errors are in the second value, after everything that could be read was taken back.
pub(super) fn restore(
    paths: &Paths,
    layout: &CgroupLayout,
    by: By,
) -> Result<(Report, Result<RecoveryJournal, JournalError>), JournalError> {
    let boot = boot_id()?;
    let mut report = Report::default();
    let (mut journal, records) = open(paths, &mut report)?;
    let reflex = ReflexJournal::read(&paths.reflex, layout).unwrap_or_else(|error| {
        report.problems.push(error.to_string());
        Vec::new()
    });
    let copied = fold(records);
    let fresh: Vec<Entry> = reflex.into_iter().filter(|entry| !contains(&copied, entry)).collect();
    let entries = merge(copied, fresh.clone());
    take_back(&entries, &boot, &mut report);
    look_at_half_done(&entries, &boot, layout, &mut report);
    if let Ok(writer) = &mut journal {
        let records = fresh.into_iter().map(|entry| Record::Reflex { entry: Box::new(entry) });
        let settled = report.actions.iter().map(|action| settled(action, by));
        if let Err(error) = writer.append_all(records.chain(settled)) {
            report.problems.push(error.to_string());
        }
    }
    Ok((report, journal))
}

type Opened = (Result<RecoveryJournal, JournalError>, Vec<Record>);

fn open(paths: &Paths, report: &mut Report) -> Result<Opened, JournalError> {
    let error = match RecoveryJournal::open(&paths.recovery) {
        Ok((journal, scan)) => {
            if scan.torn > 0 {
                let path = paths.recovery.display();
                report.problems.push(format!("{path}: cut {} bytes of an unfinished record off its end", scan.torn));
            }
            return Ok((Ok(journal), scan.records));
        }
        Err(error @ JournalError::Busy { .. }) => return Err(error),
        Err(error) => error,
    };
    report.problems.push(error.to_string());
    let records = RecoveryJournal::scan(&paths.recovery).map(|scan| scan.records).unwrap_or_default();
    Ok((Err(error), records))
}

fn contains(copied: &[Entry], entry: &Entry) -> bool {
    copied.iter().any(|known| known.session == entry.session && known.request.id == entry.request.id)
}

fn take_back(entries: &[Entry], boot: &str, report: &mut Report) {
    for entry in outstanding(entries, boot) {
        let mut restored = Vec::new();
        for change in entry.undo.changes.iter().rev() {
            let (result, error) = change.restore();
            restored.push(result);
            report.problems.extend(error.map(|error| error.to_string()));
        }
        restored.reverse();
        report.actions.push(Restoration { entry: entry.clone(), restored, healthy: None });
    }
}

/// What was begun and cannot be taken back is looked at, and never done again.
fn look_at_half_done(entries: &[Entry], boot: &str, layout: &CgroupLayout, report: &mut Report) {
    for entry in entries.iter().filter(|entry| entry.session.boot_id == boot && entry.is_half_done()) {
        if !report.actions.iter().any(|action| action.entry == *entry) {
            let healthy = holds(entry, layout);
            report.actions.push(Restoration { entry: entry.clone(), restored: Vec::new(), healthy });
        }
    }
}

/// A kill holds when nobody is left. What systemd was asked for is not ours to judge.
fn holds(entry: &Entry, layout: &CgroupLayout) -> Option<bool> {
    match (entry.request.verb, entry.request.target) {
        (Verb::Kill, Entity::Cgroup(tree, id)) => {
            let purpose = if tree == Tree::Memory { Purpose::Memory } else { Purpose::Process };
            let root = layout.hierarchy_for(purpose)?.root;
            let Ok(place) = find(&root, id) else { return Some(true) };
            place.open().and_then(|dir: Dir| dir.processes_below()).map(|left| left.is_empty()).ok()
        }
        (Verb::Kill, Entity::Process(pid)) => match stat(pid) {
            None => Some(true),
            Some(stat) if entry.start_ticks != 0 => Some(stat.starttime != entry.start_ticks),
            Some(_) => None,
        },
        _ => None,
    }
}

fn settled(action: &Restoration, by: By) -> Record {
    let entry = &action.entry;
    Record::Settled {
        session: entry.session.clone(),
        journal: entry.journal,
        id: entry.request.id,
        by,
        at_ns: clock::monotonic_ns(),
        restored: action.restored.clone(),
        healthy: action.healthy,
    }
}

/// For messages: one line per action.
pub fn describe(action: &Restoration) -> String {
    let request = &action.entry.request;
    let origin = if action.entry.journal == Kind::Reflex { "reflex" } else { "recovery" };
    let what: Vec<String> = action.entry.undo.changes.iter().zip(&action.restored).map(describe_change).collect();
    let came_to = match (what.is_empty(), action.healthy) {
        (false, _) => what.join(", "),
        (true, Some(true)) => "was done".into(),
        (true, Some(false)) => "was not done".into(),
        (true, None) => "was begun; whether it was done cannot be told".into(),
    };
    format!("action {} ({}, {origin}): {came_to}", request.id, request.verb.name())
}

fn describe_change((change, restored): (&super::cgroup::Change, &Restored)) -> String {
    let result = match restored {
        Restored::Restored => format!("back to {}", change.old),
        Restored::NothingToDo => format!("was {} already", change.old),
        Restored::ChangedByOthers => "left as others have set it since".into(),
        Restored::Gone => "its cgroup is gone".into(),
        Restored::Failed => format!("could not be set back to {}", change.old),
    };
    format!("{} of cgroup {} {}: {result}", change.knob.writes(), change.place.id, change.place.path)
}
