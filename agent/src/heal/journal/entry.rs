//! Entries: the story of one action, put together from both journals. In: records and slots; out: entries in the order of
//! their lives, and those of this boot that still have to be taken back.

use serde::{Deserialize, Serialize};

use super::line::Record;
use super::recovery::RecoveryJournal;
use super::reflex::ReflexJournal;
use super::slot::Slot;
use super::{JournalError, Paths, Session};
use crate::heal::cgroup::{Change, Knob, Place, Restored, Undo};
use crate::kernel::CgroupLayout;
use crate::model::action::{Done, Outcome, Request, Verb};

/// Which journal an entry was written to first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By the reactor.
    Reflex,
    /// By the executor.
    Recovery,
}

/// Who saw to what an agent left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The next agent, at its start.
    Agent,
    /// The guardian.
    Guardian,
    /// An operator with `faultline release`.
    Release,
}

/// What somebody did about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settlement {
    /// Who.
    pub by: By,
    /// CLOCK_MONOTONIC ns.
    pub at_ns: u64,
    /// What taking back each change of the undo came to.
    pub restored: Vec<Restored>,
    /// For what cannot be taken back: whether it holds; `None`: nobody can tell.
    pub healthy: Option<bool>,
}

/// One action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it was written first.
    pub journal: Kind,
    /// By which agent.
    pub session: Session,
    /// When it was about to be done, CLOCK_MONOTONIC ns of that boot.
    pub at_ns: u64,
    /// What.
    pub request: Request,
    /// What its target is called; a reflex has no room for it.
    pub name: Option<String>,
    /// The start of a target process, clock ticks; 0 for none.
    pub start_ticks: u64,
    /// How to take it back. Of a thaw: what it ended.
    pub undo: Undo,
    /// How it ended; `None`: the agent died in it (or is at it right now).
    pub done: Option<Done>,
    /// What verification saw.
    pub outcome: Option<Outcome>,
    /// What was done about it after the agent's death.
    pub settled: Option<Settlement>,
}

impl Entry {
    pub(super) fn of_slot(session: &Session, slot: &Slot, layout: &CgroupLayout) -> Self {
        let request = slot.intent.request;
        Self {
            journal: Kind::Reflex,
            session: session.clone(),
            at_ns: slot.intent.at_ns,
            request,
            name: None,
            start_ticks: slot.intent.start_ticks,
            undo: Undo { changes: freeze_change(slot, layout).into_iter().collect() },
            done: slot.done,
            outcome: slot.outcome,
            settled: None,
        }
    }

    /// Whether nobody knows how it ended.
    pub fn is_half_done(&self) -> bool {
        self.done.is_none() && self.settled.is_none()
    }

    /// Whether it may have left something that has to be taken back.
    fn stands(&self) -> bool {
        let reverts = matches!(self.request.verb, Verb::FreezeCgroup | Verb::LimitCgroup);
        let touched = self.done.is_none_or(|done| done.reason.is_none() || done.started_ns != 0);
        let settled = self.settled.as_ref().is_some_and(|s| !s.restored.contains(&Restored::Failed));
        reverts && touched && !settled && !self.undo.changes.is_empty()
    }

    fn is(&self, session: &Session, id: u64) -> bool {
        self.request.id == id && self.session == *session
    }
}

/// A slot has no room for a path, so the change carries none and is found by the id.
fn freeze_change(slot: &Slot, layout: &CgroupLayout) -> Option<Change> {
    let freeze = slot.intent.freeze?;
    let tree = if freeze.knob == Knob::Freeze { layout.v2_tree() } else { layout.hierarchy_of("freezer") }?;
    let flag = |on: bool| if on { "1" } else { "0" }.to_owned();
    let (old, new) = (flag(freeze.was_frozen), flag(slot.intent.request.verb == Verb::FreezeCgroup));
    let place = Place { root: tree.root, path: String::new(), id: freeze.cgroup };
    (old != new).then_some(Change { place, knob: freeze.knob, old, new })
}

/// Puts records together. An end without a beginning (its line was lost) is left out.
pub(in crate::heal) fn fold(records: Vec<Record>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut current: Option<Session> = None;
    for record in records {
        match record {
            Record::Session { session, .. } => current = Some(session),
            Record::Reflex { entry } => entries.push(*entry),
            Record::Intended { at_ns, request, name, undo } => {
                entries.extend(
                    current
                        .clone()
                        .map(|session| Entry { name: Some(name), ..intended(session, at_ns, request, undo) }),
                );
            }
            Record::Done { done } => {
                edit(&mut entries, current.as_ref(), done.id, |entry| entry.done = Some(done));
            }
            Record::Outcome { id, outcome, .. } => {
                edit(&mut entries, current.as_ref(), id, |entry| entry.outcome = Some(outcome));
            }
            Record::Settled { session, id, by, at_ns, restored, healthy, .. } => {
                let settled = Settlement { by, at_ns, restored, healthy };
                edit(&mut entries, Some(&session), id, |entry| entry.settled = Some(settled));
            }
        }
    }
    entries
}

fn intended(session: Session, at_ns: u64, request: Request, undo: Undo) -> Entry {
    let journal = Kind::Recovery;
    Entry {
        journal,
        session,
        at_ns,
        request,
        name: None,
        start_ticks: 0,
        undo,
        done: None,
        outcome: None,
        settled: None,
    }
}

fn edit(entries: &mut [Entry], session: Option<&Session>, id: u64, edit: impl FnOnce(&mut Entry)) {
    let Some(session) = session else { return };
    if let Some(entry) = entries.iter_mut().rev().find(|entry| entry.is(session, id)) {
        edit(entry);
    }
}

/// Both journals as one story: agents in the order of their lives, the actions of each in time. Reflex entries that were
/// copied already come once.
pub(in crate::heal) fn merge(recovery: Vec<Entry>, reflex: Vec<Entry>) -> Vec<Entry> {
    let mut all = recovery;
    for entry in reflex {
        if !all.iter().any(|known| known.is(&entry.session, entry.request.id)) {
            all.push(entry);
        }
    }
    let mut sessions: Vec<Session> = Vec::new();
    for entry in &all {
        if !sessions.contains(&entry.session) {
            sessions.push(entry.session.clone());
        }
    }
    all.sort_by_key(|entry| (sessions.iter().position(|session| *session == entry.session), entry.at_ns));
    all
}

/// Everything that both journals tell, half-done actions included, and what could not be read of them.
pub fn read_all(paths: &Paths, layout: &CgroupLayout) -> (Vec<Entry>, Vec<JournalError>) {
    let mut problems = Vec::new();
    let mut recovery = Vec::new();
    match RecoveryJournal::scan(&paths.recovery) {
        Ok(scan) => {
            problems.extend(scan.corrupt);
            recovery = fold(scan.records);
        }
        Err(error) => problems.push(error),
    }
    let reflex = ReflexJournal::read(&paths.reflex, layout).unwrap_or_else(|error| {
        problems.push(error);
        Vec::new()
    });
    (merge(recovery, reflex), problems)
}

/// What of this boot still has to be taken back, last action first. A freeze that was thawed later is not among them.
pub fn outstanding<'e>(entries: &'e [Entry], boot_id: &str) -> Vec<&'e Entry> {
    let mut standing: Vec<&Entry> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.session.boot_id == boot_id) {
        if entry.stands() {
            standing.push(entry);
        } else if entry.request.verb == Verb::ThawCgroup && entry.done.is_some_and(|done| done.reason.is_none()) {
            standing.retain(|frozen| !ends(entry, frozen));
        }
    }
    standing.reverse();
    standing
}

fn ends(thaw: &Entry, frozen: &Entry) -> bool {
    let same = |a: &Change, b: &Change| a.knob == b.knob && a.place.root == b.place.root && a.place.id == b.place.id;
    let mut freezes = frozen.undo.changes.iter().filter(|change| change.knob.is_freeze()).peekable();
    freezes.peek().is_some() && freezes.all(|freeze| thaw.undo.changes.iter().any(|change| same(change, freeze)))
}
