//! Allocations of the acting reactor. In: crashes, by the hundreds, in own cgroups for which handles are prepared. Out: how
//! often the reactor's thread called the allocator while the engine decided and the hands froze, thawed and killed: never.
//!
//! Real hands (`LiveHands`: handles, reflex journal, orders to an executor that only takes them) on real cgroups; the
//! crashes and the passing of time are made up, so that a fault opens, is answered, verified, clears and closes every few
//! seconds of engine time. In the place of a guardian stands [`Patient`]'s end, which thaws.

use std::{
    collections::VecDeque,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use faultline::{
    clock::monotonic_ns,
    config::Config,
    decode::Decoder,
    engine::Engine,
    heal::{
        Protection,
        executor::{Order, Standing, orders},
        handles::{self, Wanted},
        journal::Paths,
        live::{Able, LiveHands},
        release::settle,
    },
    kernel::{CgroupLayout, Root},
    model::{
        action::Verified,
        entity::{Entity, Tree},
        input::{CgroupName, Fact, TREE_PROCESS},
    },
    reactor,
    source::{EventSource, Taken, queue::Promises},
};
use faultline_common::{
    event::{Header, ProcessExit},
    sensor::PROCESS_EXIT,
};

use super::{
    Bench, alloc,
    consumer::{Discarded, comm},
    report::{Measure, Report},
};
use crate::patient::{Patient, Ward};

/// Cgroups of each verb.
const EACH: usize = 16;
/// Crashes, the first of which only bring every buffer to its size.
const CRASHES: usize = 1000;
const WARM: usize = 200;
/// Actions that must have been counted.
const ENOUGH: u64 = 1000;
/// Orders on their way to the executor, as in a session.
const WAITING: usize = 256;
/// After how many crashes, of which each makes an order, the executor gets to them: at once, or when it has other things
/// to do, such as waiting for a disk.
const BURSTS: [(&str, usize); 2] = [("acting", 1), ("acting, executor behind", 200)];
/// What it may take to do so, ns.
const CATCH_UP_NS: u64 = 5_000_000_000;
/// Handles that may be prepared.
const HANDLES: usize = 768;
/// Engine time between two inputs, ns, and how many of them follow one crash: until its fault is closed.
const STEP_NS: u64 = 400_000_000;
const STEPS: usize = 8;

/// The cgroup of whoever started the crashed.
const PARENT: u64 = 1;

/// Half of the patients are frozen (and thawed), half are killed.
const POLICY: &str = r#"
mode = "act"
[scope]
cgroups = ["WARD"]
[[plan]]
on = "process_crash"
entity = "k-*"
steps = [{ verb = "kill", verify_for = "100ms" }]
[[plan]]
on = "process_crash"
entity = "f-*"
steps = [{ verb = "freeze-cgroup", hold = "100ms", verify_for = "100ms" }]
[budget]
actions = 1000
window = "1s"
cooldown = "0s"
[budget.blast_radius]
count = 1000
share_percent = 100
[faults]
clear_after = "1s"
close_after = "1s"
[output]
events = true
"#;

/// Runs the reactor with hands, beside an executor that keeps up and one that does not.
///
/// # Errors
/// A cgroup, a journal or a handle cannot be made.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    BURSTS.iter().try_for_each(|(name, burst)| {
        report.add(one(bench, name, *burst)?);
        Ok(())
    })
}

fn one(bench: &Bench, name: &str, burst: usize) -> Result<Measure> {
    let ward = Ward::new("bench-steady")?;
    let unit = |n: usize| format!("{}-{n}.service", if n.is_multiple_of(2) { "k" } else { "f" });
    let patients = (0..2 * EACH).map(|n| ward.patient(&unit(n))).collect::<Result<Vec<_>>>()?;
    let names = patients.iter().map(|patient| cgroup_name(&ward, patient)).collect::<Result<Vec<_>>>()?;
    let config = Config::parse(&POLICY.replace("WARD", &ward.scope()), "bench")?;
    let mut lines = Discarded::start(&config, bench.places.generator)?;
    let looks = Arc::new(AtomicU64::new(0));
    let (mut hands, executor) = hands(bench, &names, looks.clone())?;
    let mut source = Story::new(&names, Executor { thread: executor.thread().clone(), looks: looks.clone(), burst });
    let mut engine = Engine::new(&config);
    reactor::run(&mut source, &Decoder::live(), &mut engine, &mut hands, &mut |output, decided| {
        lines.sink.push(output, decided);
    });
    drop(hands);
    executor.thread().unpark();
    executor.join().map_err(|_| anyhow::anyhow!("the executor's stand-in panicked"))?;
    let looks = looks.load(Ordering::Relaxed);
    (lines.finish)();
    let _ = lines.writer.join();
    let Story { calls, done: actions, refused, .. } = source;
    ensure!(looks == CRASHES as u64, "{looks} orders to look at the patient of {CRASHES} crashes");
    let note = format!(
        "over {actions} actions ({refused} refused) through decode, engine, decider, prepared handles, journal and sink"
    );
    let measure = Measure::new(format!("steady.allocations ({name})"), calls as f64, "calls").note(note);
    Ok(measure.bar("none", calls == 0 && actions >= ENOUGH && refused == 0))
}

/// A patient's cgroup as the resolver names it.
fn cgroup_name(ward: &Ward, patient: &Patient) -> Result<CgroupName> {
    let unit = patient.folder().file_name().context("a folder has a name")?.to_string_lossy();
    let id = patient.folder().metadata().context("a patient's cgroup")?.ino();
    Ok(CgroupName { trees: TREE_PROCESS, id, path: format!("{}/{unit}", ward.scope()) })
}

/// Hands with a handle for everything, and a thread that takes their orders each time it is woken, and counts them.
fn hands(
    bench: &Bench,
    names: &[CgroupName],
    looks: Arc<AtomicU64>,
) -> Result<(LiveHands, std::thread::JoinHandle<()>)> {
    let layout = CgroupLayout::gather(&Root::live())?;
    let paths = Paths {
        reflex: bench.scratch.path("acting/reflex.journal"),
        recovery: bench.scratch.path("acting/recovery.journal"),
        lock: bench.scratch.path("acting/lock"),
    };
    std::fs::create_dir_all(bench.scratch.path("acting")).context("a folder for journals")?;
    let journal = settle(&paths, &layout)?.reflex;
    let (handles, mut preparer) = handles::table(HANDLES, layout, Protection::of_agent(None));
    for name in names {
        let entity = Entity::Cgroup(Tree::Process, name.id);
        let wanted = Wanted::Cgroup { entity, tree: Tree::Process, id: name.id, path: name.path.clone() };
        let missing = preparer.want(wanted);
        ensure!(missing.is_empty(), "no handles for {}: {missing:?}", name.path);
    }
    let (orders, mut taken) = orders(WAITING);
    let executor = std::thread::spawn(move || {
        // Holds the other end of the handles, too.
        let _preparer = preparer;
        loop {
            // In this order: what was sent before the end is there by then.
            let closed = taken.is_closed();
            match taken.pop() {
                Some(Order::Look(_)) => _ = looks.fetch_add(1, Ordering::Relaxed),
                Some(_) => {}
                None if closed => return,
                None => std::thread::park(),
            }
        }
    });
    let (standing, guarded) = (Arc::new(Standing::default()), Arc::new(AtomicBool::new(true)));
    Ok((LiveHands::able(Able { handles, journal, orders, standing, guarded, promises: Promises::default() }), executor))
}

/// What stands in for the executor.
struct Executor {
    thread: std::thread::Thread,
    looks: Arc<AtomicU64>,
    burst: usize,
}

impl Executor {
    /// Wakes it and waits until it has so many orders; not for ever, should one of them have been refused.
    fn catch_up(&self, orders: usize) {
        self.thread.unpark();
        let deadline = monotonic_ns() + CATCH_UP_NS;
        while self.looks.load(Ordering::Relaxed) < orders as u64 && monotonic_ns() < deadline {
            std::thread::yield_now();
        }
    }
}

/// The source: names, then crash after crash with the time that follows each; the answers of the hands come back at once,
/// and what they did is found to have helped.
struct Story {
    executor: Executor,
    facts: Vec<Fact>,
    ids: Vec<u64>,
    answers: VecDeque<Fact>,
    frame: ProcessExit,
    now_ns: u64,
    crashes: usize,
    steps: usize,
    /// Actions while allocations were counted.
    done: u64,
    refused: u64,
    calls: u64,
}

impl Story {
    fn new(names: &[CgroupName], executor: Executor) -> Self {
        // Nothing of ours is in there; but until the engine has such a list, everything is protected.
        let own = Fact::Own(Arc::from(vec!["/init.scope".to_owned()]));
        // The crashed are children of somebody outside: main processes.
        let parent = CgroupName { trees: TREE_PROCESS, id: PARENT, path: "/".to_owned() };
        let all: Vec<CgroupName> = names.iter().cloned().chain([parent]).collect();
        Self {
            executor,
            facts: vec![Fact::Cgroups(Arc::from(all)), own],
            ids: names.iter().map(|name| name.id).collect(),
            answers: VecDeque::with_capacity(64),
            frame: crash(0, 0),
            now_ns: monotonic_ns(),
            crashes: 0,
            steps: STEPS,
            done: 0,
            refused: 0,
            calls: 0,
        }
    }

    fn next_crash(&mut self) -> Taken<'_> {
        match self.crashes {
            WARM => alloc::start(),
            CRASHES => {
                self.calls = alloc::stop();
                return Taken::End;
            }
            _ => {}
        }
        if self.crashes.is_multiple_of(self.executor.burst) {
            self.executor.catch_up(self.crashes);
        }
        (self.steps, self.crashes) = (0, self.crashes + 1);
        self.frame = crash(self.ids[self.crashes % self.ids.len()], self.now_ns);
        Taken::Frame(self.frame.as_bytes())
    }
}

impl EventSource for Story {
    fn next(&mut self) -> Taken<'_> {
        if let Some(fact) = self.facts.pop().or_else(|| self.answers.pop_front()) {
            return Taken::Fact(fact);
        }
        self.now_ns += STEP_NS;
        self.steps += 1;
        if self.steps > STEPS { self.next_crash() } else { Taken::Fact(Fact::Tick { now_ns: self.now_ns }) }
    }

    fn decided(&mut self) -> Option<u64> {
        Some(monotonic_ns())
    }

    fn answer(&mut self, fact: Fact) {
        if let Fact::Done(done) = &fact {
            let counted = u64::from(self.crashes > WARM);
            match done.reason {
                None => self.done += counted,
                Some(_) => self.refused += counted,
            }
            let verified = Verified { id: done.id, healthy: Some(true), now_ns: self.now_ns };
            self.answers.push_back(fact);
            self.answers.push_back(Fact::Verified(verified));
        }
    }
}

/// A crash in a cgroup.
fn crash(cgroup_id: u64, ktime_ns: u64) -> ProcessExit {
    let len = size_of::<ProcessExit>() as u32;
    ProcessExit {
        header: Header { ktime_ns, cgroup_id, missing: 0, sensor: PROCESS_EXIT, flags: 0, cpu: 0, len, pad: 0 },
        start_ns: ktime_ns.saturating_sub(1000),
        parent_cgroup_id: PARENT,
        pid: 4_000_000,
        ppid: 1,
        uid: 0,
        exit_code: libc::SIGSEGV.cast_unsigned(),
        comm: comm("fl-acting"),
    }
}
