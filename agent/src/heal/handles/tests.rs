//! Reflexes through prepared handles: what they do, and each refusal with what would happen without it.

use std::cell::Cell;
use std::fs;

use super::*;
use crate::clock;
use crate::heal::fixture::{Sandbox, TempDir, request, within_ms};
use crate::heal::journal::{Session, read_all};
use crate::heal::process::Identity;
use crate::heal::{HandError, Protection};
use crate::model::entity::Tree;

fn journal(dir: &TempDir, slots: usize) -> ReflexJournal {
    ReflexJournal::create(&dir.paths().reflex, slots, &Session::current().expect("/proc")).expect("create")
}

fn wanted(sandbox: &Sandbox, tree: Tree, entity: Entity) -> Wanted {
    Wanted::Cgroup { entity, tree, id: sandbox.id(sandbox.name_of(tree)), path: sandbox.path.clone() }
}

/// The table with one cgroup prepared, and its entity.
fn prepared(sandbox: &Sandbox, tree: Tree) -> (Handles, Preparer, Entity) {
    let (mut handles, mut preparer) = table(16, sandbox.layout.clone(), Protection::of_agent(None));
    let entity = Entity::Cgroup(tree, sandbox.id(sandbox.name_of(tree)));
    let missing = preparer.want(wanted(sandbox, tree, entity));
    assert!(missing.is_empty(), "{missing:?}");
    handles.take_in();
    (handles, preparer, entity)
}

fn run(handles: &mut Handles, request: &Request, journal: &mut ReflexJournal) -> Option<Result<(), Reason>> {
    let done = handles.execute(request, clock::monotonic_ns, journal)?;
    assert_eq!(done.id, request.id);
    Some(done.reason.map_or(Ok(()), Err))
}

#[test]
fn freezes_thaws_and_kills() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    let pid = sandbox.process();
    let dir = TempDir::new();
    let mut journal = journal(&dir, 8);
    let (mut handles, _preparer, entity) = prepared(&sandbox, Tree::Process);
    let mut go = |id, verb| run(&mut handles, &request(id, verb, entity), &mut journal);
    assert_eq!(go(1, Verb::FreezeCgroup), Some(Ok(())));
    assert!(within_ms(1000, || sandbox.read("unified", "cgroup.events").contains("frozen 1")));
    assert_eq!(go(2, Verb::ThawCgroup), Some(Ok(())));
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0");
    assert_eq!(go(3, Verb::Kill), Some(Ok(())));
    assert!(sandbox.dies_within_ms(pid, 1000));
    assert_eq!(go(4, Verb::LimitCgroup), None, "for the executor");
    assert_eq!(journal.standing(), 0);
    let (entries, problems) = read_all(&dir.paths(), &sandbox.layout);
    assert!(problems.is_empty() && entries.len() == 3 && entries.iter().all(|entry| entry.done.is_some()));
}

#[test]
fn a_reflex_kill_reaches_the_frozen_of_v1() {
    let Some(mut sandbox) = Sandbox::new(&["unified", "freezer"]) else { return };
    let pid = sandbox.process();
    let dir = TempDir::new();
    let (mut handles, _preparer, entity) = prepared(&sandbox, Tree::Process);
    sandbox.write("freezer", "freezer.state", "FROZEN");
    assert!(within_ms(1000, || sandbox.read("freezer", "freezer.state") == "FROZEN"));
    sandbox.write("unified", "cgroup.kill", "1");
    assert!(!sandbox.dies_within_ms(pid, 50), "cgroup.kill alone does not reach it");
    assert_eq!(run(&mut handles, &request(1, Verb::Kill, entity), &mut journal(&dir, 8)), Some(Ok(())));
    assert!(sandbox.dies_within_ms(pid, 1000));
}

#[test]
fn v1_freezes_through_its_twin() {
    let Some(mut sandbox) = Sandbox::new(&["memory", "freezer"]) else { return };
    sandbox.process();
    let dir = TempDir::new();
    let (mut handles, mut preparer) = table(16, sandbox.layout.clone(), Protection::of_agent(None));
    let entity = Entity::Unit(5);
    let missing = preparer.want(wanted(&sandbox, Tree::Memory, entity));
    assert_eq!(missing.iter().map(|(verb, _)| *verb).collect::<Vec<_>>(), [Verb::Kill], "v1 has no cgroup.kill");
    let mut journal = journal(&dir, 8);
    assert_eq!(run(&mut handles, &request(1, Verb::FreezeCgroup, entity), &mut journal), Some(Ok(())));
    assert!(within_ms(1000, || sandbox.read("freezer", "freezer.state") == "FROZEN"));
    assert_eq!(run(&mut handles, &request(2, Verb::Kill, entity), &mut journal), None);
}

#[test]
fn old_evidence_is_refused() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    sandbox.process();
    let dir = TempDir::new();
    let mut journal = journal(&dir, 8);
    let (mut handles, _preparer, entity) = prepared(&sandbox, Tree::Process);
    let old = Request { evidence_max_age_ns: 1_000, ..request(1, Verb::FreezeCgroup, entity) };
    let later = Cell::new(old.evidence_ns + 1_001);
    let done = handles.execute(&old, || later.get(), &mut journal).expect("a handle");
    assert_eq!((done.reason, done.started_ns), (Some(Reason::EvidenceTooOld), 0));
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0");
    // With a longer patience the same evidence freezes:
    let patient = Request { evidence_max_age_ns: 2_000, ..old };
    assert_eq!(handles.execute(&patient, || later.get(), &mut journal).expect("a handle").reason, None);
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "1");
}

#[test]
fn no_slot_no_action() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    let pid = sandbox.process();
    let dir = TempDir::new();
    let mut journal = journal(&dir, 1);
    let (mut handles, _preparer, entity) = prepared(&sandbox, Tree::Process);
    assert_eq!(run(&mut handles, &request(1, Verb::FreezeCgroup, entity), &mut journal), Some(Ok(())));
    let done = handles.execute(&request(2, Verb::Kill, entity), clock::monotonic_ns, &mut journal).expect("a handle");
    assert_eq!((done.reason, done.started_ns), (Some(Reason::NoJournal), 0));
    assert!(!sandbox.is_dead(pid));
    // What undoes needs none:
    assert_eq!(run(&mut handles, &request(4, Verb::ThawCgroup, entity), &mut journal), Some(Ok(())));
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0");
    // Once the journal knows of the thaw, the slot is free and the same request kills:
    let cgroup = sandbox.id("unified");
    journal.thawed(&FreezeUndo { knob: Knob::Freeze, cgroup, was_frozen: false });
    assert_eq!(run(&mut handles, &request(3, Verb::Kill, entity), &mut journal), Some(Ok(())));
    assert!(sandbox.dies_within_ms(pid, 1000));
}

#[test]
fn a_cgroup_made_again_is_refused_and_a_unit_is_opened_again() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    let dir = TempDir::new();
    let mut journal = journal(&dir, 8);
    let (mut handles, mut preparer, entity) = prepared(&sandbox, Tree::Process);
    let unit = Entity::Unit(5);
    assert!(preparer.want(wanted(&sandbox, Tree::Process, unit)).is_empty());
    handles.take_in();
    let path = sandbox.dir("unified");
    fs::remove_dir(&path).expect("empty");
    fs::create_dir(&path).expect("made again");
    let pid = sandbox.process();
    for (id, verb, target) in [(1, Verb::Kill, entity), (2, Verb::FreezeCgroup, unit), (3, Verb::Kill, unit)] {
        let done = handles.execute(&request(id, verb, target), clock::monotonic_ns, &mut journal).expect("a handle");
        assert_eq!((done.reason, done.started_ns), (Some(Reason::CgroupRecreated), 0), "{verb:?}");
    }
    assert!(!sandbox.is_dead(pid));
    assert_eq!(run(&mut handles, &request(4, Verb::Kill, entity), &mut journal), None, "dropped");
    preparer.turn();
    assert_eq!(run(&mut handles, &request(5, Verb::Kill, entity), &mut journal), None, "that id is no more");
    assert_eq!(run(&mut handles, &request(6, Verb::Kill, unit), &mut journal), Some(Ok(())), "the unit lives on");
    assert!(sandbox.dies_within_ms(pid, 1000));
    assert_eq!(journal.standing(), 0, "a refused freeze stands nowhere");
}

#[test]
fn a_process_is_killed_once() {
    let Some(mut sandbox) = Sandbox::new(&[]) else { return };
    let pid = sandbox.process();
    let dir = TempDir::new();
    let mut journal = journal(&dir, 8);
    let (mut handles, mut preparer) = table(4, sandbox.layout.clone(), Protection::of_agent(None));
    let identity = Identity::of(pid).expect("alive");
    let recycled = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
    let missing = preparer.want(Wanted::Process(recycled));
    assert!(matches!(missing[..], [(Verb::Kill, HandError::Recycled { .. })]));
    let ask = |id| request(id, Verb::Kill, Entity::Process(pid));
    assert_eq!(run(&mut handles, &ask(1), &mut journal), None);
    assert!(preparer.want(Wanted::Process(identity)).is_empty());
    assert_eq!(run(&mut handles, &ask(2), &mut journal), Some(Ok(())));
    assert!(sandbox.dies_within_ms(pid, 1000));
    assert_eq!(run(&mut handles, &ask(3), &mut journal), Some(Err(Reason::TargetGone)));
    assert_eq!(run(&mut handles, &ask(4), &mut journal), None);
}

#[test]
fn the_protected_are_never_prepared_and_are_taken_back() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    let (mut handles, mut preparer) = table(16, sandbox.layout.clone(), Protection::of_agent(None));
    let entity = Entity::Unit(5);
    let agent = sandbox.process();
    preparer.want(wanted(&sandbox, Tree::Process, entity));
    handles.take_in();
    assert_eq!(handles.len(), 3, "nobody protected yet");
    preparer.set_protection(Protection::of([agent]));
    preparer.recheck();
    handles.take_in();
    assert!(handles.is_empty(), "taken back");
    let missing = preparer.want(wanted(&sandbox, Tree::Process, entity));
    assert!(matches!(missing[..], [(_, HandError::Protected { .. })]));
}

#[test]
fn the_table_is_bounded_and_everything_comes_back() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    sandbox.process();
    let (mut handles, mut preparer) = table(3, sandbox.layout.clone(), Protection::of_agent(None));
    for round in 0..10 {
        let missing = preparer.want(wanted(&sandbox, Tree::Process, Entity::Unit(round)));
        assert!(missing.is_empty(), "round {round}: {missing:?}");
        handles.take_in();
        assert_eq!(handles.len(), 3);
        preparer.turn();
        assert_eq!(preparer.lent(), 3, "what was pushed out was closed");
    }
    // Nobody takes in: the queue fills and says so.
    assert!(preparer.want(wanted(&sandbox, Tree::Process, Entity::Unit(20))).is_empty());
    assert_eq!(preparer.want(wanted(&sandbox, Tree::Process, Entity::Unit(21))).len(), 3);
}
