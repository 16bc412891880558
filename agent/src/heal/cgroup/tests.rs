//! The verbs on real cgroups of both versions, and what each guard keeps from happening.

use std::fs;

use super::kill::Kill;
use super::*;
use crate::heal::fixture::{Sandbox, deadline, within_ms};
use crate::heal::{HandError, Protection};
use crate::model::action::{Limit, Reason, Verb};
use crate::model::entity::Tree;

fn reason<T: std::fmt::Debug>(result: Result<T, HandError>) -> Reason {
    result.expect_err("a refusal").reason()
}

fn ready(sandbox: &Sandbox, tree: Tree, verb: Verb, limit: Limit) -> Result<Prepared, HandError> {
    prepare(&sandbox.layout, &Protection::of_agent(None), verb, limit, sandbox.target(tree)?)
}

fn go(sandbox: &Sandbox, tree: Tree, verb: Verb) -> Undo {
    let prepared = ready(sandbox, tree, verb, Limit::default()).expect("prepared");
    prepared.apply(deadline()).expect("done");
    assert_eq!(prepared.healthy(), Some(true), "{verb:?}");
    prepared.undo()
}

#[test]
fn v2_freezes_and_thaws() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    sandbox.process();
    let undo = go(&sandbox, Tree::Process, Verb::FreezeCgroup);
    assert!(sandbox.read("unified", "cgroup.events").contains("frozen 1"));
    assert_eq!((undo.changes[0].old.as_str(), undo.changes[0].new.as_str()), ("0", "1"));
    go(&sandbox, Tree::Process, Verb::ThawCgroup);
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0");
}

#[test]
fn v1_freezes_where_the_same_processes_are() {
    let Some(mut sandbox) = Sandbox::new(&["memory", "freezer"]) else { return };
    sandbox.process();
    let undo = go(&sandbox, Tree::Memory, Verb::FreezeCgroup);
    assert_eq!(sandbox.read("freezer", "freezer.state"), "FROZEN");
    assert_eq!(undo.changes[0].knob, Knob::FreezerState);
    assert_eq!(undo.changes[0].restore().0, Restored::Restored);
    assert_eq!(sandbox.read("freezer", "freezer.state"), "THAWED");
    assert_eq!(undo.changes[0].restore().0, Restored::NothingToDo, "twice does nothing");
}

#[test]
fn a_cgroup_that_somebody_else_froze_is_not_ours_to_thaw() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    sandbox.process();
    sandbox.write("unified", "cgroup.freeze", "1");
    assert_eq!(go(&sandbox, Tree::Process, Verb::FreezeCgroup), Undo::default(), "nothing to take back");
}

#[test]
fn a_twin_with_strangers_is_no_twin() {
    let Some(mut sandbox) = Sandbox::new(&["memory", "freezer"]) else { return };
    sandbox.process();
    let freezer = sandbox.dir("freezer");
    let stranger = sandbox.process_in(&[freezer]);
    let refused = ready(&sandbox, Tree::Memory, Verb::FreezeCgroup, Limit::default());
    assert_eq!(reason(refused), Reason::NotSupported);
    assert_eq!(sandbox.read("freezer", "freezer.state"), "THAWED");
    // What would have happened by the path alone:
    sandbox.write("freezer", "freezer.state", "FROZEN");
    assert!(sandbox.read("freezer", "cgroup.procs").contains(&stranger.to_string()), "the stranger is frozen, too");
}

#[test]
fn a_twin_is_found_under_another_path() {
    let Some(mut sandbox) = Sandbox::new(&["memory", "freezer"]) else { return };
    let below = sandbox.dir("freezer").join("elsewhere");
    let below = sandbox.make(below);
    let memory = sandbox.dir("memory");
    sandbox.process_in(&[memory.clone(), below.clone()]);
    // A stranger beside, so that the same path is not the twin.
    let freezer = sandbox.dir("freezer");
    sandbox.process_in(&[freezer]);
    go(&sandbox, Tree::Memory, Verb::FreezeCgroup);
    assert_eq!(fs::read_to_string(below.join("freezer.state")).expect("state").trim(), "FROZEN");
    assert_eq!(sandbox.read("freezer", "freezer.state"), "THAWED");
}

#[test]
fn v1_limits_and_gives_back() {
    let Some(mut sandbox) = Sandbox::new(&["memory", "cpu"]) else { return };
    sandbox.process();
    let before = (sandbox.read("memory", "memory.limit_in_bytes"), sandbox.read("cpu", "cpu.cfs_quota_us"));
    let limit = Limit { memory_percent: Some(50), cpu_permille: Some(250) };
    let prepared = ready(&sandbox, Tree::Memory, Verb::LimitCgroup, limit).expect("prepared");
    prepared.apply(deadline()).expect("limited");
    assert_eq!(prepared.healthy(), Some(true));
    let number = |file| sandbox.read("memory", file).parse::<u64>().expect("bytes");
    assert!(number("memory.limit_in_bytes") < 1 << 40, "limited");
    assert_eq!(sandbox.read("cpu", "cpu.cfs_quota_us"), "25000");
    for change in prepared.undo().changes.iter().rev() {
        assert_eq!(change.restore().0, Restored::Restored);
    }
    let after = (sandbox.read("memory", "memory.limit_in_bytes"), sandbox.read("cpu", "cpu.cfs_quota_us"));
    assert_eq!(after, before);
}

#[test]
fn what_an_operator_set_since_stays() {
    let Some(mut sandbox) = Sandbox::new(&["memory", "cpu"]) else { return };
    sandbox.process();
    let limit = Limit { memory_percent: None, cpu_permille: Some(250) };
    let prepared = ready(&sandbox, Tree::Memory, Verb::LimitCgroup, limit).expect("prepared");
    prepared.apply(deadline()).expect("limited");
    sandbox.write("cpu", "cpu.cfs_quota_us", "70000");
    assert_eq!(prepared.undo().changes[0].restore().0, Restored::ChangedByOthers);
    assert_eq!(sandbox.read("cpu", "cpu.cfs_quota_us"), "70000");
}

#[test]
fn a_kill_reaches_the_frozen_of_v1() {
    let Some(mut sandbox) = Sandbox::new(&["memory", "freezer"]) else { return };
    let pid = sandbox.process();
    sandbox.write("freezer", "freezer.state", "FROZEN");
    assert!(within_ms(1000, || sandbox.read("freezer", "freezer.state") == "FROZEN"));
    // Without the thaw the signal waits:
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::SIGKILL)
        .expect("our child");
    assert!(!sandbox.dies_within_ms(pid, 50), "SIGKILL alone does not reach it");
    go(&sandbox, Tree::Memory, Verb::Kill);
    assert!(sandbox.dies_within_ms(pid, 1000));
}

#[test]
fn a_kill_empties_the_cgroup_and_what_is_below() {
    for by_processes in [false, true] {
        let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
        let below = sandbox.dir("unified").join("below");
        let below = sandbox.make(below);
        let pids = [sandbox.process(), sandbox.process_in(&[below])];
        let outside = sandbox.process_in(&[]);
        if by_processes {
            let target = sandbox.target(Tree::Process).expect("target");
            let kill = Kill::by_processes(&sandbox.layout, &Sandbox::nobody(), &target);
            kill.run(&target.dir, deadline()).expect("killed");
        } else {
            go(&sandbox, Tree::Process, Verb::Kill);
        }
        for pid in pids {
            assert!(sandbox.dies_within_ms(pid, 1000), "by_processes: {by_processes}");
        }
        assert!(!sandbox.is_dead(outside));
    }
}

#[test]
fn a_cgroup_made_again_is_never_hit() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    let target = sandbox.target(Tree::Process).expect("the first one");
    let old = sandbox.id("unified");
    let prepared = ready(&sandbox, Tree::Process, Verb::FreezeCgroup, Limit::default()).expect("prepared");
    let kill = ready(&sandbox, Tree::Process, Verb::Kill, Limit::default()).expect("prepared");
    let dir = sandbox.dir("unified");
    fs::remove_dir(&dir).expect("empty");
    assert_eq!(reason(target.place.open()), Reason::TargetGone);
    fs::create_dir(&dir).expect("made again");
    let pid = sandbox.process();
    assert_ne!(sandbox.id("unified"), old);
    assert_eq!(reason(Target::open(&sandbox.layout, Tree::Process, &sandbox.path, old)), Reason::CgroupRecreated);
    assert_eq!(reason(prepared.apply(deadline())), Reason::TargetGone);
    assert_eq!(reason(kill.apply(deadline())), Reason::TargetGone);
    assert!(!sandbox.is_dead(pid));
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0");
    // By the path, without the id, the stranger is hit:
    go(&sandbox, Tree::Process, Verb::Kill);
    assert!(sandbox.dies_within_ms(pid, 1000));
}

#[test]
fn a_cgroup_with_somebody_protected_is_refused() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    let below = sandbox.dir("unified").join("below");
    let below = sandbox.make(below);
    let agent = sandbox.process_in(&[below]);
    let try_with = |protection: &Protection| {
        let target = sandbox.target(Tree::Process).expect("target");
        prepare(&sandbox.layout, protection, Verb::FreezeCgroup, Limit::default(), target)
    };
    assert_eq!(reason(try_with(&Protection::of([1, agent]))), Reason::Protected);
    assert_eq!(sandbox.read("unified", "cgroup.freeze"), "0");
    // Without that guard the protected one stops:
    try_with(&Protection::of([1])).expect("no guard").apply(deadline()).expect("frozen");
    assert!(sandbox.read("unified", "cgroup.events").contains("frozen 1"));
}

#[test]
fn the_root_and_paths_out_of_the_tree_are_refused() {
    let Some(sandbox) = Sandbox::new(&["unified"]) else { return };
    let root = fs::metadata(sandbox.tree("unified").expect("tree").root)
        .map(|meta| std::os::unix::fs::MetadataExt::ino(&meta));
    let target = Target::open(&sandbox.layout, Tree::Process, "/", root.expect("id")).expect("the root");
    for protection in [Protection::of_agent(None), Sandbox::nobody()] {
        assert_eq!(reason(target.guard(&protection)), Reason::Protected);
    }
    let out = format!("{}/../..", sandbox.path);
    assert_eq!(reason(Target::open(&sandbox.layout, Tree::Process, &out, 1)), Reason::NotSupported);
}

#[test]
fn kernel_threads_and_pid_1_are_known() {
    let guard = Protection::of_agent(Some(4_000_000));
    assert_eq!(reason(guard.judge(1)), Reason::Protected);
    assert_eq!(reason(guard.judge(std::process::id())), Reason::Protected);
    assert_eq!(reason(guard.judge(4_000_000)), Reason::Protected);
    match fs::read_to_string("/proc/2/comm").as_deref() {
        Ok("kthreadd\n") => assert_eq!(reason(Sandbox::nobody().judge(2)), Reason::Protected),
        _ => eprintln!("skipped: no kernel thread is visible here"),
    }
}

#[test]
fn a_controller_that_is_missing_is_said() {
    let Some(mut sandbox) = Sandbox::new(&["memory"]) else { return };
    sandbox.process();
    let refused = ready(&sandbox, Tree::Memory, Verb::FreezeCgroup, Limit::default());
    assert_eq!(reason(refused), Reason::NotSupported, "its processes are in the root of every freezer");
}

#[test]
fn a_place_is_found_by_its_id() {
    let Some(sandbox) = Sandbox::new(&["freezer"]) else { return };
    let root = sandbox.tree("freezer").expect("tree").root;
    let place = find(&root, sandbox.id("freezer")).expect("found");
    assert_eq!(place.path, sandbox.path);
    assert_eq!(reason(find(&root, u64::MAX)), Reason::TargetGone);
}
