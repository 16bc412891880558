//! What is left behind is taken back once; what cannot be taken back is looked at and never done again.

use std::fs;

use super::*;
use crate::clock;
use crate::heal::Protection;
use crate::heal::cgroup::{Prepared, Restored, prepare};
use crate::heal::fixture::{Sandbox, TempDir, deadline, request};
use crate::heal::journal::{By, Kind, read_all};
use crate::model::action::{Done, Limit, Reason, Verb};
use crate::model::entity::{Entity, Tree};

fn prepared(sandbox: &Sandbox, verb: Verb) -> Prepared {
    let target = sandbox.target(Tree::Process).expect("target");
    prepare(&sandbox.layout, &Protection::of_agent(None), verb, Limit::default(), target).expect("prepared")
}

#[test]
fn a_freeze_that_died_before_and_after_the_write() {
    for applied in [false, true] {
        let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
        sandbox.process();
        let dir = TempDir::new();
        let paths = dir.paths();
        let mut settled = settle(&paths, &sandbox.layout).expect("a first start");
        assert!(settled.report.actions.is_empty());
        let freeze = prepared(&sandbox, Verb::FreezeCgroup);
        let request = request(1, Verb::FreezeCgroup, Entity::Unit(1));
        settled.recovery.intend(clock::monotonic_ns(), &request, "x", &freeze.undo()).expect("intend");
        if applied {
            freeze.apply(deadline()).expect("frozen");
        }
        drop(settled);
        let report = release(&paths, &sandbox.layout).expect("released");
        let expected = if applied { Restored::Restored } else { Restored::NothingToDo };
        assert_eq!(report.actions[0].restored, [expected]);
        assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0");
        // Idempotent: what others freeze from now on stays frozen.
        sandbox.write("unified", "cgroup.freeze", "1");
        assert!(release(&paths, &sandbox.layout).expect("again").actions.is_empty());
        assert_eq!(sandbox.read("unified", "cgroup.freeze"), "1");
    }
}

#[test]
fn a_half_done_kill_is_judged_and_not_repeated() {
    for applied in [false, true] {
        let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
        let pid = sandbox.process();
        let dir = TempDir::new();
        let paths = dir.paths();
        let mut settled = settle(&paths, &sandbox.layout).expect("start");
        let kill = prepared(&sandbox, Verb::Kill);
        let target = Entity::Cgroup(Tree::Process, sandbox.id("unified"));
        let intended = (clock::monotonic_ns(), request(1, Verb::Kill, target));
        settled.recovery.intend(intended.0, &intended.1, "x", &kill.undo()).expect("intend");
        if applied {
            kill.apply(deadline()).expect("killed");
        }
        drop(settled);
        let settled = settle(&paths, &sandbox.layout).expect("the next start");
        assert_eq!(settled.report.actions[0].healthy, Some(applied));
        assert_eq!(sandbox.dies_within_ms(pid, 50), applied, "never done again");
        drop(settled);
        assert!(settle(&paths, &sandbox.layout).expect("start").report.actions.is_empty(), "settled once");
    }
}

#[test]
fn reflex_entries_are_kept_when_the_mapping_is_made_anew() {
    let dir = TempDir::new();
    let paths = dir.paths();
    let Some(sandbox) = Sandbox::new(&[]) else { return };
    let mut settled = settle(&paths, &sandbox.layout).expect("start");
    let request = request(1, Verb::Kill, Entity::Process(77));
    let intent = crate::heal::journal::Intent { request, freeze: None, start_ticks: 3, at_ns: 4 };
    let slot = settled.reflex.intend(&intent).expect("a slot");
    let done = Done { id: 1, reason: Some(Reason::NotPermitted), started_ns: 5, finished_ns: 6 };
    settled.reflex.finish(slot, &done);
    drop(settled);
    for _ in 0..2 {
        drop(settle(&paths, &sandbox.layout).expect("the next start"));
        let (entries, problems) = read_all(&paths, &sandbox.layout);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(entries.len(), 1, "once");
        assert_eq!((entries[0].journal, entries[0].done), (Kind::Reflex, Some(done)));
    }
}

#[test]
fn a_damaged_journal_keeps_the_agent_from_acting_but_not_from_thawing() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    sandbox.process();
    let dir = TempDir::new();
    let paths = dir.paths();
    let mut settled = settle(&paths, &sandbox.layout).expect("start");
    let at = settled.recovery.len();
    settled.recovery.outcome(9, crate::model::action::Outcome::Unknown, 0).expect("a line to be damaged");
    let freeze = prepared(&sandbox, Verb::FreezeCgroup);
    let freezing = request(1, Verb::FreezeCgroup, Entity::Unit(1));
    settled.recovery.intend(clock::monotonic_ns(), &freezing, "x", &freeze.undo()).expect("intend");
    freeze.apply(deadline()).expect("frozen");
    drop(settled);
    let mut bytes = fs::read(&paths.recovery).expect("read");
    bytes[usize::try_from(at).expect("small") + 12] ^= 1;
    fs::write(&paths.recovery, &bytes).expect("write");
    let error = settle(&paths, &sandbox.layout).expect_err("damaged");
    assert_eq!(error.reason(), Reason::JournalCorrupt);
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0", "thawed all the same");
    assert_eq!(fs::read(&paths.recovery).expect("read"), bytes, "the file is as it was");
    let report = release(&paths, &sandbox.layout).expect("release goes on, too");
    assert!(report.problems.iter().any(|problem| problem.contains("damaged")), "{report:?}");
    fs::rename(&paths.recovery, dir.0.join("moved")).expect("the operator moves it");
    settle(&paths, &sandbox.layout).expect("and it works again");
}

#[test]
fn beside_a_living_agent_nothing_is_released() {
    let dir = TempDir::new();
    let paths = dir.paths();
    let Some(sandbox) = Sandbox::new(&[]) else { return };
    let lock = lock_node(&paths.lock).expect("the agent's");
    let error = release(&paths, &sandbox.layout).expect_err("an agent runs");
    let me = std::process::id();
    assert!(matches!(error, ReleaseError::AgentRuns { pid: Some(pid) } if pid == me), "{error}");
    drop(lock);
    release(&paths, &sandbox.layout).expect("without it");
}

#[test]
fn a_restoration_names_who_did_it() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    sandbox.process();
    let dir = TempDir::new();
    let paths = dir.paths();
    let mut settled = settle(&paths, &sandbox.layout).expect("start");
    let freeze = prepared(&sandbox, Verb::FreezeCgroup);
    let freezing = request(1, Verb::FreezeCgroup, Entity::Unit(1));
    settled.recovery.intend(clock::monotonic_ns(), &freezing, "x", &freeze.undo()).expect("intend");
    freeze.apply(deadline()).expect("frozen");
    drop(settled);
    let report = release(&paths, &sandbox.layout).expect("released");
    let said = crate::heal::restore::describe(&report.actions[0]);
    assert!(said.starts_with("action 1 (freeze-cgroup, recovery): cgroup.freeze of cgroup"), "{said}");
    let (entries, _) = read_all(&paths, &sandbox.layout);
    assert_eq!(entries[0].settled.as_ref().map(|settled| settled.by), Some(By::Release));
}

#[test]
fn a_full_grown_journal_gives_way() {
    let dir = TempDir::new();
    let paths = dir.paths();
    let journal = RecoveryJournal::open(&paths.recovery).expect("open").0;
    let mut report = Report::default();
    let fresh = rotate(&paths, journal, &mut report).expect("rotated");
    assert!(report.problems.is_empty() && fresh.len() == 0);
    assert!(paths.recovery.exists() && paths.recovery.with_extension("journal.1").exists());
}
