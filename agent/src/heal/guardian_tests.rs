//! An agent of the tests' own that freezes and limits and is then killed, and the guardian that puts things right.
//!
//! Agent and guardian are this test program started again with [`ROLE`] set; without it [`helper`] is an empty test.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::clock;
use crate::heal::Protection;
use crate::heal::cgroup::{Target, prepare};
use crate::heal::fixture::{Sandbox, TempDir, deadline, request, within_ms};
use crate::heal::handles::{Wanted, table};
use crate::heal::journal::{RecoveryJournal, ReflexJournal, read_all};
use crate::heal::release::{Settled, settle};
use crate::model::action::{Done, Limit, Request, Verb};
use crate::model::entity::{Entity, Tree};

const ROLE: &str = "FAULTLINE_TEST_ROLE";
const DIR: &str = "FAULTLINE_TEST_DIR";
const CGROUP: &str = "FAULTLINE_TEST_CGROUP";

fn again(role: &str, dir: &Path, cgroup: &str) -> Command {
    // Not its path: the file may be built anew meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "heal::guardian::tests::helper", "--nocapture"]).stdout(Stdio::null());
    command.env(ROLE, role).env(DIR, dir).env(CGROUP, cgroup);
    command
}

/// What the started-again program is.
#[test]
fn helper() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).expect("set with the role"));
    let paths = paths(&dir);
    if role == "guardian" {
        return main(&[paths.reflex.into(), paths.recovery.into()]).expect("the guardian");
    }
    let path = std::env::var(CGROUP).expect("set with the role");
    let guardian = Guardian::start_command(again("guardian", &dir, &path)).expect("a guardian");
    let layout = CgroupLayout::gather(&Root::live()).expect("mounts");
    let Settled { reflex, recovery, .. } = settle(&paths, &layout).expect("journals");
    let mut agent = Agent { layout, reflex, recovery, path, next: 1 };
    agent.limit();
    agent.freeze_both_ways();
    fs::write(dir.join("fresh"), guardian.pid().to_string()).expect("tell");
    fs::rename(dir.join("fresh"), dir.join("ready")).expect("tell");
    if role == "busy" {
        loop {
            agent.thaw();
            agent.freeze_both_ways();
        }
    }
    // The test closes this: an orderly end. Or it kills.
    io::stdin().read_to_end(&mut Vec::new()).expect("wait");
    drop(agent);
    guardian.stop().expect("stop");
}

fn paths(dir: &Path) -> Paths {
    Paths { reflex: dir.join("reflex.journal"), recovery: dir.join("recovery.journal"), lock: dir.join("lock") }
}

/// The hands of the agent under test.
struct Agent {
    layout: CgroupLayout,
    reflex: ReflexJournal,
    recovery: RecoveryJournal,
    path: String,
    next: u64,
}

impl Agent {
    fn request(&mut self, verb: Verb) -> Request {
        self.next += 1;
        request(self.next, verb, Entity::Unit(1))
    }

    fn id(&self, tree: &str) -> u64 {
        let root = if tree == "unified" { self.layout.v2_tree() } else { self.layout.hierarchy_of("memory") };
        let dir = root.expect("mounted").root.join(&self.path[1..]);
        fs::metadata(dir).map(|meta| std::os::unix::fs::MetadataExt::ino(&meta)).expect("made by the test")
    }

    /// Through the recovery journal, as the executor does.
    fn recover(&mut self, verb: Verb, tree: Tree, limit: Limit) {
        let id = self.id(if tree == Tree::Memory { "memory" } else { "unified" });
        let target = Target::open(&self.layout, tree, &self.path, id).expect("target");
        let prepared = prepare(&self.layout, &Protection::of_agent(None), verb, limit, target).expect("prepared");
        let request = self.request(verb);
        self.recovery.intend(clock::monotonic_ns(), &request, "x", &prepared.undo()).expect("intend");
        let started_ns = clock::monotonic_ns();
        prepared.apply(deadline()).expect("apply");
        let done = Done { id: request.id, reason: None, started_ns, finished_ns: clock::monotonic_ns() };
        self.recovery.done(&done).expect("done");
    }

    /// As the reactor does.
    fn reflex(&mut self, verb: Verb) {
        let (mut handles, mut preparer) = table(8, self.layout.clone(), Protection::of_agent(None));
        let id = self.id("unified");
        preparer.want(Wanted::Cgroup { entity: Entity::Unit(1), tree: Tree::Process, id, path: self.path.clone() });
        let request = self.request(verb);
        let done = handles.execute(&request, clock::monotonic_ns, &mut self.reflex).expect("a handle");
        assert_eq!(done.reason, None);
    }

    fn limit(&mut self) {
        self.recover(Verb::LimitCgroup, Tree::Memory, Limit { memory_percent: None, cpu_permille: Some(100) });
    }

    fn freeze_both_ways(&mut self) {
        if self.next.is_multiple_of(2) {
            self.reflex(Verb::FreezeCgroup);
        } else {
            self.recover(Verb::FreezeCgroup, Tree::Process, Limit::default());
        }
    }

    fn thaw(&mut self) {
        self.reflex(Verb::ThawCgroup);
    }
}

/// A sandbox, a running agent that has frozen and limited it, and the guardian's pid.
struct Scene {
    sandbox: Sandbox,
    dir: TempDir,
    agent: Child,
    guardian: PidFd,
    guardian_pid: Pid,
}

impl Scene {
    fn new(role: &str) -> Option<Self> {
        let mut sandbox = Sandbox::new(&["unified", "memory", "cpu"])?;
        sandbox.process();
        let dir = TempDir::new();
        // The orphaned guardian becomes ours to reap; not every PID 1 does that.
        prctl::set_child_subreaper(true).expect("an attribute of this process");
        let agent = again(role, &dir.0, &sandbox.path).stdin(Stdio::piped()).spawn().expect("the agent");
        let ready = dir.0.join("ready");
        assert!(within_ms(5000, || ready.exists()), "the agent is up");
        let pid: u32 = fs::read_to_string(ready).expect("read").parse().expect("a pid");
        let guardian = PidFd::open(pid).expect("the guardian is up");
        Some(Self { sandbox, dir, agent, guardian, guardian_pid: Pid::from_raw(pid.cast_signed()) })
    }

    fn is_clean(&self) -> bool {
        self.sandbox.read("unified", "cgroup.freeze") == "0" && self.sandbox.read("cpu", "cpu.cfs_quota_us") == "-1"
    }

    /// Kills the agent; how long it took until nothing was frozen or limited.
    fn kill_agent(&mut self) -> u64 {
        let from = clock::monotonic_ns();
        self.agent.kill().expect("our child");
        assert!(within_ms(1000, || self.is_clean()), "restored within a second");
        let took = clock::monotonic_ns() - from;
        self.agent.wait().expect("reap");
        assert!(self.guardian.wait_ms(1000), "the guardian ends");
        took
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        self.guardian.wait_ms(2000);
        // ECHILD: the agent itself reaped it at its orderly end.
        let _ = nix::sys::wait::waitpid(self.guardian_pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    }
}

#[test]
fn the_guardian_restores_after_a_kill() {
    let Some(mut scene) = Scene::new("agent") else { return };
    assert_eq!(scene.sandbox.read("unified", "cgroup.freeze"), "1");
    assert_eq!(scene.sandbox.read("cpu", "cpu.cfs_quota_us"), "10000");
    // Nothing that a terminal or a service manager sends ends it before its work is done.
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGUSR1] {
        kill(scene.guardian_pid, signal).expect("our grandchild");
    }
    assert!(!scene.guardian.wait_ms(50));
    let took = scene.kill_agent();
    eprintln!("restored {:.1} ms after the kill", took as f64 / 1e6);
    let (entries, problems) = read_all(&paths(&scene.dir.0), &scene.sandbox.layout);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry.settled.as_ref().is_some_and(|s| s.by == By::Guardian)), "{entries:?}");
}

#[test]
fn without_a_guardian_the_harm_stays() {
    let Some(mut scene) = Scene::new("agent") else { return };
    kill(scene.guardian_pid, Signal::SIGKILL).expect("our grandchild");
    assert!(scene.guardian.wait_ms(1000));
    scene.agent.kill().expect("our child");
    scene.agent.wait().expect("reap");
    assert!(!within_ms(300, || scene.is_clean()), "frozen and limited for ever");
    let report = crate::heal::release::release(&paths(&scene.dir.0), &scene.sandbox.layout).expect("released");
    assert_eq!(report.restored(), 2, "{report:?}");
    assert!(scene.is_clean(), "until somebody does it by hand");
}

#[test]
fn an_orderly_stop_restores_too() {
    let Some(mut scene) = Scene::new("agent") else { return };
    drop(scene.agent.stdin.take());
    assert!(scene.agent.wait().expect("reap").success(), "the guardian answered");
    assert!(scene.is_clean());
    assert!(scene.guardian.wait_ms(1000));
    let (entries, _) = read_all(&paths(&scene.dir.0), &scene.sandbox.layout);
    assert!(entries.iter().all(|entry| entry.settled.is_some()), "and wrote it down");
}

/// Killed at any point of an action: restored within a second, and the journal knows how each action ended.
#[test]
fn killed_at_random_points() {
    let rounds = std::env::var("FAULTLINE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12_u64);
    let mut slowest = 0;
    for round in 0..rounds {
        let Some(mut scene) = Scene::new("busy") else { return };
        // No seed: the moment of the kill is what is random.
        let wait_us = clock::monotonic_ns() % 20_000;
        let until = clock::monotonic_ns() + wait_us * 1000;
        while clock::monotonic_ns() < until {
            std::hint::spin_loop();
        }
        slowest = slowest.max(scene.kill_agent());
        let (entries, problems) = read_all(&paths(&scene.dir.0), &scene.sandbox.layout);
        assert!(problems.is_empty(), "round {round}: {problems:?}");
        assert!(entries.len() >= 2 && !entries.iter().any(|entry| entry.is_half_done()), "round {round}");
        let again = crate::heal::release::release(&paths(&scene.dir.0), &scene.sandbox.layout).expect("release");
        assert!(again.actions.is_empty(), "nothing is left to do: {again:?}");
    }
    eprintln!("{rounds} kills, slowest restoration {:.1} ms", slowest as f64 / 1e6);
}
