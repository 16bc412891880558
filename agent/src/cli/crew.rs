//! The crew: everything that makes hands of a session. In: the policy, the names that the engine hears. Out: hands for
//! the reactor, answers as facts, and at the end everything taken back that the agent held.
//!
//! In mode `observe` there is none. In mode `act` what is missing (a journal, a guardian) binds the hands: each
//! request is then refused with that reason, and the agent goes on to feel and report.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool, mpsc as sync_mpsc},
    time::Duration,
};

use nix::poll::{PollTimeout, poll};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{running::Deadline, watch::Watch};
use crate::{
    config::{Config, Mode, policy::Policy},
    heal::{
        Protection,
        executor::{Executor, Guard, HandReport, Parts, Standing, orders},
        guardian::Guardian,
        handles::{self, Preparer, Wanted},
        journal::{JournalError, Paths},
        live::{Able, LiveHands},
        release::{Settled, at_the_end, left_behind, settle},
        restore,
        systemd::Bus,
    },
    kernel::CgroupLayout,
    model::{
        action::Reason,
        entity::{Entity, Tree},
        input::{CgroupName, Fact, TREE_MEMORY, TREE_PROCESS},
    },
    source::queue::{Doorbell, FactSender, Promises},
};

/// Orders, reports and batches of names that may wait.
const WAITING: usize = 256;
/// Handles prepared at the same time; each has one or two descriptors.
const HANDLES: usize = 768;
/// How often the preparer looks for stale handles when nothing wakes it.
const TURN: Duration = Duration::from_millis(250);
/// How often a busy journal is tried again at start, and how long is waited in between, ms: two seconds in all.
const BUSY_TRIES: usize = 100;
const BUSY_MS: u8 = 20;
/// Turns between two looks at who is in the prepared cgroups: half a minute when nothing else happens.
const RECHECK: u32 = 120;
/// Pause before an answer is offered again to a reactor that is behind.
const AGAIN: Duration = Duration::from_millis(2);

/// Names on their way to those who open what they name.
#[derive(Clone, Debug, Default)]
pub(super) struct NameTaps {
    executor: Option<mpsc::Sender<Arc<[CgroupName]>>>,
    preparer: Option<sync_mpsc::SyncSender<Arc<[CgroupName]>>>,
}

impl NameTaps {
    /// Tells a batch before the reactor hears of it: an order must never overtake its name. For the start, on a thread that
    /// may not block; the queue is empty then, and longer than a node has batches.
    pub(super) fn tell_first(&self, names: &Arc<[CgroupName]>) {
        if let Some(executor) = &self.executor
            && executor.try_send(names.clone()).is_err()
        {
            tracing::warn!("the executor does not know every name yet; what it does not know, it refuses");
        }
        if let Some(preparer) = &self.preparer {
            let _ = preparer.try_send(names.clone());
        }
    }

    /// The same while everything runs. Blocks while the executor is behind.
    pub(super) fn tell(&self, names: &Arc<[CgroupName]>) {
        if let Some(executor) = &self.executor {
            let _ = executor.blocking_send(names.clone());
        }
        if let Some(preparer) = &self.preparer {
            // Without a prepared handle the executor does it, more slowly.
            let _ = preparer.try_send(names.clone());
        }
    }
}

/// The crew of one session.
#[derive(Debug, Default)]
pub(super) struct Crew {
    taps: NameTaps,
    executor: Option<JoinHandle<()>>,
    /// Ends with whether the guardian has seen to everything.
    guardian: Option<JoinHandle<bool>>,
    layout: Option<CgroupLayout>,
    dismiss: Option<Arc<Doorbell>>,
}

/// Where the journals are: in systemd's directories for the service, else in the default ones.
pub(super) fn paths() -> Paths {
    let default = Paths::default();
    let within = |variable, path: PathBuf| match (std::env::var_os(variable), path.file_name()) {
        (Some(dir), Some(name)) => PathBuf::from(dir).join(name),
        _ => path,
    };
    Paths {
        reflex: within("RUNTIME_DIRECTORY", default.reflex),
        recovery: within("STATE_DIRECTORY", default.recovery),
        lock: default.lock,
    }
}

/// The manager that is asked to restart units.
fn bus() -> Bus {
    std::env::var("FAULTLINE_BUS").map_or(Bus::System, Bus::Address)
}

/// The cgroup paths that no action may touch: those of the agent, of PID 1 and of the guardian.
fn own_paths(guardian: Option<u32>) -> Fact {
    let pids = [1, std::process::id()].into_iter().chain(guardian);
    let texts = pids.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
    let mut paths: Vec<String> = Vec::new();
    for text in texts {
        paths.extend(text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned));
    }
    paths.sort();
    paths.dedup();
    Fact::Own(paths.into())
}

impl Crew {
    /// Gets ready; tells the engine first who is never touched.
    pub(super) fn start(
        config: &Config,
        layout: &CgroupLayout,
        facts: &FactSender,
        promises: &Promises,
    ) -> (Self, LiveHands) {
        let made = match config.mode {
            Mode::Observe => {
                tell_left_behind(layout);
                (Self::default(), LiveHands::None, None)
            }
            Mode::Act => Self::act(&config.policy, layout, facts, promises),
        };
        let (crew, hands, guardian) = made;
        if !facts.send(own_paths(guardian)) {
            tracing::error!("the reactor did not take the list of protected cgroups; nothing will be touched");
        }
        (crew, hands)
    }

    fn act(
        policy: &Policy,
        layout: &CgroupLayout,
        facts: &FactSender,
        promises: &Promises,
    ) -> (Self, LiveHands, Option<u32>) {
        let paths = paths();
        let settled = match settled(&paths, layout) {
            Ok(settled) => settled,
            Err(error) => {
                tracing::error!(%error, "nothing will be done: without a sound journal every action is refused");
                return (Self::default(), LiveHands::Bound(bound(&error)), None);
            }
        };
        tell_report(&settled);
        let guardian = Guardian::start(&paths).inspect_err(|error| tracing::error!(%error, "no guardian")).ok();
        let pid = guardian.as_ref().map(Guardian::pid);
        let protection = Protection::of_agent(pid);
        let (handles, preparer) = handles::table(HANDLES, layout.clone(), protection.clone());
        let (orders, orders_in) = orders(WAITING);
        let (names, names_in) = mpsc::channel(WAITING);
        let (reports, reports_in) = mpsc::channel(WAITING);
        let (to_preparer, preparer_in) = sync_mpsc::sync_channel(WAITING);
        let dismiss = Doorbell::new().inspect_err(|error| tracing::error!(%error, "the guardian cannot be told")).ok();
        let is_guarded = guardian.is_some() && dismiss.is_some();
        let (standing, guarded) = (Arc::new(Standing::default()), Arc::new(AtomicBool::new(is_guarded)));
        let executor = Executor::new(Parts {
            orders: orders_in,
            names: names_in,
            reports,
            standing: standing.clone(),
            guard: Guard::new(policy.protected.clone(), protection.clone()),
            layout: layout.clone(),
            bus: bus(),
            journal: settled.recovery,
        });
        let scope = policy.clone();
        tokio::task::spawn_blocking(move || prepare(preparer, &preparer_in, &scope));
        tokio::spawn(hand_in(reports_in, facts.clone(), promises.clone()));
        let watched = dismiss.clone().map(|dismissed| {
            let watch = Watch { paths, guarded: guarded.clone(), protection, dismissed };
            tokio::task::spawn_blocking(move || watch.over(guardian))
        });
        let crew = Self {
            taps: NameTaps { executor: Some(names), preparer: Some(to_preparer) },
            executor: Some(tokio::spawn(executor.run())),
            guardian: watched,
            layout: Some(layout.clone()),
            dismiss,
        };
        let able = Able { handles, journal: settled.reflex, orders, standing, guarded, promises: promises.clone() };
        (crew, LiveHands::able(able), pid)
    }

    /// For the resolver.
    pub(super) fn taps(&self) -> NameTaps {
        self.taps.clone()
    }

    /// The hands are gone: actions that were begun end, then the guardian takes back what is held.
    pub(super) async fn finish(self, deadline: Deadline) {
        drop(self.taps);
        if let Some(executor) = self.executor
            && tokio::time::timeout(deadline.left(), executor).await.is_err()
        {
            tracing::warn!(
                "an action is still under way; the journal calls it half-done, and the next start looks at it"
            );
        }
        if let Some(dismiss) = self.dismiss {
            dismiss.ring_always();
        }
        let seen_to = match self.guardian {
            None => false,
            Some(guardian) => match tokio::time::timeout(deadline.left(), guardian).await {
                Ok(seen_to) => seen_to.unwrap_or(false),
                Err(_) => {
                    tracing::warn!("the guardian is still taking back what was held; `faultline actions` tells");
                    true
                }
            },
        };
        if let Some(layout) = self.layout.filter(|_| !seen_to) {
            take_back(&paths(), &layout);
        }
    }
}

/// Does what the guardian would have done.
fn take_back(paths: &Paths, layout: &CgroupLayout) {
    match at_the_end(paths, layout) {
        Ok(report) => {
            for action in &report.actions {
                tracing::info!("taken back: {}", restore::describe(action));
            }
            report.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
        }
        Err(error) => tracing::error!(%error, "nothing was taken back; run `faultline release`"),
    }
}

/// Settles; waits for a guardian of an agent that died a moment ago and is still at it.
fn settled(paths: &Paths, layout: &CgroupLayout) -> Result<Settled, JournalError> {
    for _ in 0..BUSY_TRIES {
        match settle(paths, layout) {
            Err(JournalError::Busy { .. }) => _ = poll(&mut [], PollTimeout::from(BUSY_MS)),
            done => return done,
        }
    }
    settle(paths, layout)
}

fn bound(error: &JournalError) -> Reason {
    match error {
        JournalError::Corrupt { .. } | JournalError::Version { .. } => Reason::JournalCorrupt,
        _ => Reason::NoJournal,
    }
}

fn tell_report(settled: &Settled) {
    for action in &settled.report.actions {
        tracing::warn!("left behind by an earlier run: {}", restore::describe(action));
    }
    for problem in &settled.report.problems {
        tracing::warn!("{problem}");
    }
    if !settled.reflex.is_locked() {
        tracing::info!("the reflex journal is not locked in memory");
    }
}

/// Who may not touch anything can at least say it.
fn tell_left_behind(layout: &CgroupLayout) {
    let count = left_behind(&paths(), layout);
    if count > 0 {
        tracing::warn!(count, "an earlier agent left something frozen or limited; run `faultline release`");
    }
}

/// Answers of the executor become inputs of the engine.
async fn hand_in(mut reports: mpsc::Receiver<HandReport>, facts: FactSender, promises: Promises) {
    while let Some(report) = reports.recv().await {
        let fact = match report {
            HandReport::Done(done) => Fact::Done(done),
            HandReport::Verified(verified) => Fact::Verified(verified),
        };
        while !facts.send(fact.clone()) {
            tokio::time::sleep(AGAIN).await;
        }
        if matches!(report, HandReport::Done(_)) {
            promises.kept();
        }
    }
}

/// Keeps handles ready for everything in scope. Blocking; ends with the session.
fn prepare(mut preparer: Preparer, names: &sync_mpsc::Receiver<Arc<[CgroupName]>>, policy: &Policy) {
    for turn in 1u32.. {
        match names.recv_timeout(TURN) {
            Ok(batch) => {
                for name in batch.iter().filter(|name| policy.covers(&name.path)) {
                    want(&mut preparer, name);
                }
            }
            Err(sync_mpsc::RecvTimeoutError::Timeout) => {}
            Err(sync_mpsc::RecvTimeoutError::Disconnected) => return,
        }
        preparer.turn();
        if turn.is_multiple_of(RECHECK) {
            // Whoever must not be touched may have moved in since.
            preparer.recheck();
        }
    }
}

fn want(preparer: &mut Preparer, name: &CgroupName) {
    for (bit, tree) in [(TREE_PROCESS, Tree::Process), (TREE_MEMORY, Tree::Memory)] {
        if name.trees & bit == 0 {
            continue;
        }
        let entity = Entity::Cgroup(tree, name.id);
        let missing = preparer.want(Wanted::Cgroup { entity, tree, id: name.id, path: name.path.clone() });
        for (verb, error) in missing {
            tracing::debug!(verb = verb.name(), path = name.path, "no prepared handle: {error}");
        }
    }
}
