//! The executor without a service manager and with throw-away cgroups; with one: `tests/tests/systemd.rs`.

use std::time::Duration;

use super::{names::Named, *};
use crate::{
    config::policy::{Pattern, Protected},
    heal::{Protection, fixture::Sandbox},
    kernel::Root,
    model::{
        action::{Limit, Verb},
        entity::{Entity, Tree, unit_key},
        input::{TREE_MEMORY, TREE_PROCESS},
    },
};

/// What was written, in order.
#[derive(Clone, Debug, Default)]
struct Memory {
    lines: Arc<Mutex<Vec<String>>>,
    full: bool,
}

impl Memory {
    fn note(&self, line: String) -> Result<(), Reason> {
        if self.full {
            return Err(Reason::NoJournal);
        }
        self.lines.lock().unwrap().push(line);
        Ok(())
    }
}

impl Journal for Memory {
    fn intend(&mut self, _: u64, request: &Request, _: &str, undo: &Undo) -> Result<(), Reason> {
        self.note(format!("intend {} {}", request.id, undo.changes.len()))
    }

    fn done(&mut self, done: &Done) -> Result<(), Reason> {
        self.note(format!("done {} {:?}", done.id, done.reason))
    }

    fn outcome(&mut self, id: u64, outcome: Outcome, _: u64) -> Result<(), Reason> {
        self.note(format!("outcome {id} {}", outcome.name()))
    }
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    orders: Option<Orders>,
    names: mpsc::Sender<Arc<[CgroupName]>>,
    reports: mpsc::Receiver<HandReport>,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    fn new(journal: Memory, protected: Vec<Protected>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (orders, orders_in) = orders(8);
        let (names, names_in) = mpsc::channel(8);
        let (reports_out, reports) = mpsc::channel(8);
        let standing = Arc::new(Standing::default());
        assert!(standing.opened(7));
        let nowhere = std::env::temp_dir().join(format!("faultline-nobody-{}", std::process::id()));
        let executor = Executor::new(Parts {
            orders: orders_in,
            names: names_in,
            reports: reports_out,
            standing,
            guard: Guard { protected, pids: Protection::of_agent(None), own_unit: Some("faultline.service".into()) },
            layout: CgroupLayout::gather(&Root::live()).unwrap(),
            bus: Bus::Address(format!("unix:path={}", nowhere.display())),
            journal,
        });
        let task = runtime.spawn(executor.run());
        Self { runtime, orders: Some(orders), names, reports, task }
    }

    fn knows(&self, id: u64, path: &str) {
        let name = CgroupName { trees: TREE_PROCESS | TREE_MEMORY, id, path: path.into() };
        self.runtime.block_on(self.names.send(Arc::from([name]))).unwrap();
    }

    fn send(&mut self, request: Request) {
        assert!(self.orders.as_mut().unwrap().send(Order::Act(request)));
    }

    fn next(&mut self) -> HandReport {
        let wait = async { tokio::time::timeout(Duration::from_secs(20), self.reports.recv()).await };
        self.runtime.block_on(wait).expect("a report in time").expect("a report")
    }

    fn answer(&mut self, request: Request) -> Done {
        self.send(request);
        match self.next() {
            HandReport::Done(done) => done,
            other => panic!("{other:?}"),
        }
    }

    fn end(mut self) {
        drop(self.orders.take());
        self.runtime.block_on(self.task).unwrap();
    }
}

fn request(id: u64, verb: Verb, target: Entity) -> Request {
    Request {
        id,
        fault: 7,
        verb,
        target,
        limit: Limit::default(),
        evidence_ns: monotonic_ns(),
        evidence_max_age_ns: 60_000_000_000,
        timeout_ns: 5_000_000_000,
        verify_ns: 50_000_000,
    }
}

fn unit(name: &str) -> Entity {
    Entity::Unit(unit_key(name))
}

#[test]
fn without_a_bus_it_is_refused_and_the_executor_lives() {
    let journal = Memory::default();
    let lines = journal.lines.clone();
    let mut bench = Bench::new(journal, Vec::new());
    bench.knows(1, "/system.slice/a.service");
    for id in 1..4 {
        let done = bench.answer(request(id, Verb::RestartUnit, unit("a.service")));
        assert_eq!((done.id, done.reason, done.started_ns), (id, Some(Reason::NoServiceManager), 0));
    }
    assert!(lines.lock().unwrap().is_empty(), "nothing was about to be done");
    bench.end();
}

#[test]
fn each_brake_refuses_and_without_it_the_bus_is_asked() {
    let protected = vec![Protected::Unit(Pattern::new("db-*.service")), Protected::Cgroup("/keep".into())];
    let mut bench = Bench::new(Memory::default(), protected);
    for (id, path) in
        [(1, "/a.service"), (2, "/db-1.service"), (3, "/faultline.service"), (4, "/keep/x"), (5, "/a.service/in")]
    {
        bench.knows(id, path);
    }
    let plain = |target| request(1, Verb::RestartUnit, target);
    let cgroup = |id| request(1, Verb::Kill, Entity::Cgroup(Tree::Process, id));
    let old = Request { evidence_max_age_ns: 0, ..plain(unit("a.service")) };
    let cleared = Request { fault: 8, ..plain(unit("a.service")) };
    for (request, reason) in [
        (old, Reason::EvidenceTooOld),
        (cleared, Reason::FaultCleared),
        (plain(unit("db-1.service")), Reason::Protected),
        (plain(unit("faultline.service")), Reason::Protected),
        (cgroup(4), Reason::Protected),
        (plain(unit("unheard.service")), Reason::NoTarget),
        (plain(Entity::Cgroup(Tree::Process, 1)), Reason::NoTarget),
        (request(1, Verb::Kill, Entity::Process(1)), Reason::NoTarget),
        (request(1, Verb::Kill, unit("a.service")), Reason::NoTarget),
        // The same without a brake in the way: it gets as far as the bus, or to the cgroup that is not there.
        (plain(unit("a.service")), Reason::NoServiceManager),
        (cgroup(5), Reason::TargetGone),
    ] {
        let done = bench.answer(request);
        assert_eq!((done.reason, done.started_ns), (Some(reason), 0), "{request:?}");
    }
    bench.end();
}

#[test]
fn a_cgroup_is_frozen_watched_and_thawed_and_all_is_written_down() {
    let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
    let _ = sandbox.process();
    let journal = Memory::default();
    let lines = journal.lines.clone();
    let mut bench = Bench::new(journal, Vec::new());
    let id = sandbox.id("unified");
    bench.knows(id, &sandbox.path);
    let target = Entity::Cgroup(Tree::Process, id);
    for (number, verb, state) in [(1, Verb::FreezeCgroup, "1"), (2, Verb::ThawCgroup, "0")] {
        let done = bench.answer(request(number, verb, target));
        assert_eq!(done.reason, None, "{verb:?}");
        assert!(done.started_ns != 0 && done.finished_ns >= done.started_ns);
        assert_eq!(sandbox.read("unified", "cgroup.freeze"), state);
        match bench.next() {
            HandReport::Verified(seen) => assert_eq!((seen.id, seen.healthy), (number, Some(true))),
            other => panic!("{other:?}"),
        }
    }
    let verdict = Order::Outcome { id: 2, outcome: Outcome::Recovered, at_ns: 1 };
    assert!(bench.orders.as_mut().unwrap().send(verdict));
    bench.end();
    let lines = lines.lock().unwrap().join("; ");
    assert_eq!(lines, "intend 1 1; done 1 None; intend 2 1; done 2 None; outcome 2 recovered");
}

#[test]
fn no_journal_no_action() {
    for full in [true, false] {
        let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
        let _ = sandbox.process();
        let mut bench = Bench::new(Memory { full, ..Memory::default() }, Vec::new());
        let id = sandbox.id("unified");
        bench.knows(id, &sandbox.path);
        let done = bench.answer(request(1, Verb::FreezeCgroup, Entity::Cgroup(Tree::Process, id)));
        assert_eq!(done.reason, full.then_some(Reason::NoJournal));
        let frozen = sandbox.read("unified", "cgroup.freeze") == "1";
        assert_eq!(frozen, !full, "with the journal full nothing is touched; with room it is");
        bench.end();
    }
}

/// A journal so slow that the fault may clear meanwhile.
struct Slow {
    standing: Arc<Standing>,
    clears: bool,
}

impl Journal for Slow {
    fn intend(&mut self, _: u64, _: &Request, _: &str, _: &Undo) -> Result<(), Reason> {
        if self.clears {
            self.standing.cleared(7);
        }
        Ok(())
    }

    fn done(&mut self, done: &Done) -> Result<(), Reason> {
        assert_eq!(done.reason, self.clears.then_some(Reason::FaultCleared));
        Ok(())
    }

    fn outcome(&mut self, _: u64, _: Outcome, _: u64) -> Result<(), Reason> {
        Ok(())
    }
}

#[test]
fn a_fault_that_clears_while_the_intent_is_written_is_left_alone() {
    for clears in [true, false] {
        let Some(mut sandbox) = Sandbox::new(&["unified"]) else { return };
        let _ = sandbox.process();
        let id = sandbox.id("unified");
        let standing = Arc::new(Standing::default());
        assert!(standing.opened(7));
        let tools = Tools {
            systemd: Systemd::new(Bus::System),
            layout: CgroupLayout::gather(&Root::live()).unwrap(),
            guard: Guard { protected: Vec::new(), pids: Protection::of_agent(None), own_unit: None },
            standing: standing.clone(),
            journal: Mutex::new(Slow { standing, clears }),
        };
        let named = Named::Cgroup { tree: Tree::Process, id, path: Arc::from(sandbox.path.as_str()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = act::act(Arc::new(tools), request(1, Verb::FreezeCgroup, Entity::Cgroup(Tree::Process, id)), named);
        let (done, hand) = runtime.block_on(work);
        assert_eq!((done.reason, hand.is_none()), (clears.then_some(Reason::FaultCleared), clears));
        assert_eq!(done.started_ns == 0, clears);
        // Where the fault stands, the same request freezes.
        assert_eq!(sandbox.read("unified", "cgroup.freeze") == "0", clears);
    }
}

#[test]
fn one_target_at_a_time_and_free_before_it_is_told() {
    let (Some(mut one), Some(mut two)) = (Sandbox::new(&["unified"]), Sandbox::new(&["unified"])) else { return };
    let _ = one.process();
    let _ = two.process();
    let mut bench = Bench::new(Memory::default(), Vec::new());
    let ids = [&one, &two].map(|s| {
        let id = s.id("unified");
        bench.knows(id, &s.path);
        id
    });
    let freeze = |number, id| {
        let plain = request(number, Verb::FreezeCgroup, Entity::Cgroup(Tree::Process, id));
        Request { verify_ns: 300_000_000, ..plain }
    };
    bench.send(freeze(1, ids[0]));
    bench.send(freeze(2, ids[0]));
    bench.send(freeze(3, ids[1]));
    let mut seen: Vec<HandReport> = (0..3).map(|_| bench.next()).collect();
    let busy = |report: &HandReport| matches!(report, HandReport::Done(done) if done.reason == Some(Reason::Busy));
    assert_eq!(seen.iter().filter(|report| busy(report)).count(), 1, "{seen:?}");
    seen.retain(|report| !busy(report));
    assert!(seen.iter().all(|report| matches!(report, HandReport::Done(done) if done.reason.is_none())), "{seen:?}");
    // Both are only looked at now: the next step need not wait, whatever it then finds.
    bench.send(freeze(5, ids[0]));
    let HandReport::Done(next) = bench.next() else { panic!("an answer before the verdicts") };
    assert_eq!((next.id, next.reason), (5, Some(Reason::AlreadyFrozen)));
    for _ in 0..2 {
        let HandReport::Verified(first) = bench.next() else { panic!("verdicts come now") };
        let id = if first.id == 1 { ids[0] } else { ids[1] };
        if first.id == 1 {
            // At once, as a plan's next step would: it is free.
            bench.send(Request { verb: Verb::ThawCgroup, ..freeze(4, id) });
        }
    }
    let HandReport::Done(done) = bench.next() else { panic!("the next step's answer") };
    assert_eq!((done.id, done.reason), (4, None));
    bench.end();
}

#[test]
fn standing_faults_are_found_and_forgotten() {
    let standing = Standing::default();
    assert!(!standing.stands(0) && !standing.stands(5));
    // All with the same home, as far as the reach goes.
    let crowd: Vec<u64> = (1..=64).map(|n| n * 4096).collect();
    assert!(crowd.iter().all(|id| standing.opened(*id)) && crowd.iter().all(|id| standing.stands(*id)));
    assert!(!standing.opened(65 * 4096) && !standing.stands(65 * 4096), "no room counts as cleared");
    standing.cleared(crowd[0]);
    assert!(!standing.stands(crowd[0]) && standing.stands(crowd[63]), "a hole hides nobody");
    assert!(standing.opened(65 * 4096) && standing.stands(65 * 4096));
    assert!(standing.opened(crowd[5]) && standing.opened(crowd[5]), "again is no second place");
    standing.cleared(crowd[5]);
    assert!(!standing.stands(crowd[5]));
}
