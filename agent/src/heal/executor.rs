//! The executor: all that may block. In: [`Order`]s and names, each by a bounded channel. Out: [`HandReport`]s, which the
//! caller turns into facts for the engine, and lines in the journal.
//!
//! One task owns the tables and gives each action a task of its own; there are at most [`IN_FLIGHT`] of them, after that
//! the orders' channel fills and the reactor is told `queue_full`. Two actions on one target never overlap; a cgroup of a
//! service counts as that service. While a target is only looked at, the next step of its plan may begin: the fault that
//! spoke again has ended the look in the engine. A report is sent only after the target is free, so that the next step,
//! which a report sets off, is not refused as `busy`.
//!
//! Orders are plain serialisable values: the executor is to become a process of its own.

mod act;
mod guard;
mod names;
mod orders;
mod standing;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::{Id, JoinError, JoinSet},
};

use self::{
    act::{Hand, Tools},
    names::{Named, Names},
};
use super::{
    cgroup::Undo,
    journal::{JournalError, RecoveryJournal},
    systemd::{Bus, Systemd},
};
use crate::{
    clock::monotonic_ns,
    kernel::CgroupLayout,
    model::{
        action::{Done, Outcome, Reason, Request, Verified},
        input::CgroupName,
    },
};

pub use guard::Guard;
pub use orders::{Orders, OrdersIn, orders};
pub use standing::Standing;

/// Actions in progress or being verified at the same time.
const IN_FLIGHT: usize = 64;

/// What the executor can be told.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Do this.
    Act(Request),
    /// This was done by a prepared handle: only look at the target's health afterwards.
    Look(Request),
    /// The engine has judged an action; for the journal.
    Outcome {
        /// [`Request::id`].
        id: u64,
        /// The verdict.
        outcome: Outcome,
        /// Engine time, ns.
        at_ns: u64,
    },
}

/// What the executor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandReport {
    /// Each [`Order::Act`] has exactly one.
    Done(Done),
    /// Each that was done has exactly one, unless the executor is stopped before.
    Verified(Verified),
}

/// What the executor writes down. On the disk when a call returns.
pub trait Journal: Send + 'static {
    /// Before an action.
    ///
    /// # Errors
    /// It is not on the disk, and nothing may be done.
    fn intend(&mut self, at_ns: u64, request: &Request, name: &str, undo: &Undo) -> Result<(), Reason>;
    /// After it.
    ///
    /// # Errors
    /// It is not on the disk.
    fn done(&mut self, done: &Done) -> Result<(), Reason>;
    /// After the verdict.
    ///
    /// # Errors
    /// It is not on the disk.
    fn outcome(&mut self, id: u64, outcome: Outcome, at_ns: u64) -> Result<(), Reason>;
}

impl Journal for RecoveryJournal {
    fn intend(&mut self, at_ns: u64, request: &Request, name: &str, undo: &Undo) -> Result<(), Reason> {
        Self::intend(self, at_ns, request, name, undo).map_err(unwritten)
    }

    fn done(&mut self, done: &Done) -> Result<(), Reason> {
        Self::done(self, done).map_err(unwritten)
    }

    fn outcome(&mut self, id: u64, outcome: Outcome, at_ns: u64) -> Result<(), Reason> {
        Self::outcome(self, id, outcome, at_ns).map_err(unwritten)
    }
}

fn unwritten(error: JournalError) -> Reason {
    tracing::error!(%error, "the journal");
    error.reason()
}

/// What the executor is made of.
#[derive(Debug)]
pub struct Parts<J> {
    /// When the sender is gone, the executor finishes what it has begun and ends.
    pub orders: OrdersIn,
    /// The names that the engine hears.
    pub names: mpsc::Receiver<Arc<[CgroupName]>>,
    /// Where answers go; waited for when it is full.
    pub reports: mpsc::Sender<HandReport>,
    /// Which faults stand.
    pub standing: Arc<Standing>,
    /// Who is never touched.
    pub guard: Guard,
    /// Where cgroups are.
    pub layout: CgroupLayout,
    /// Where the service manager is; connected to when first needed.
    pub bus: Bus,
    /// Where everything is written down.
    pub journal: J,
}

/// The task.
#[derive(Debug)]
pub struct Executor<J> {
    orders: OrdersIn,
    names_in: mpsc::Receiver<Arc<[CgroupName]>>,
    reports: mpsc::Sender<HandReport>,
    names: Names,
    tools: Arc<Tools<J>>,
    tasks: JoinSet<Step>,
    running: BTreeMap<Id, Running>,
}

/// How a task ends.
#[derive(Debug)]
enum Step {
    Acted(Done, Option<Hand>),
    Looked(Option<bool>),
}

/// What a task is about; kept outside of it, so that a task that dies is answered for.
#[derive(Clone, Debug)]
struct Running {
    request: Request,
    lane: Arc<str>,
    acting: bool,
}

impl<J: Journal> Executor<J> {
    /// An executor that has not begun.
    pub fn new(parts: Parts<J>) -> Self {
        let tools = Tools {
            systemd: Systemd::new(parts.bus),
            layout: parts.layout,
            guard: parts.guard,
            standing: parts.standing,
            journal: Mutex::new(parts.journal),
        };
        Self {
            orders: parts.orders,
            names_in: parts.names,
            reports: parts.reports,
            names: Names::default(),
            tools: Arc::new(tools),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
        }
    }

    /// Works until the sender of orders is gone and every action that was begun is over; verifications are cut short.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                // A name comes before the order that needs it.
                biased;
                Some(names) = self.names_in.recv() => self.names.learn(&names),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await,
                order = self.orders.recv(), if self.running.len() < IN_FLIGHT => match order {
                    Some(order) => self.obey(order).await,
                    None => break,
                },
            }
        }
        while self.running.values().any(|running| running.acting) {
            let Some(ended) = self.tasks.join_next_with_id().await else { break };
            self.ended(ended).await;
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Act(request) => {
                if let Err(reason) = self.begin(request) {
                    self.report(refusal(&request, reason)).await;
                }
            }
            Order::Look(request) => self.look(request).await,
            Order::Outcome { id, outcome, at_ns } => {
                let tools = self.tools.clone();
                let write = move || tools.journal.lock().is_ok_and(|mut j| j.outcome(id, outcome, at_ns).is_ok());
                if !act::blocking(write).await.unwrap_or(false) {
                    tracing::error!(id, "its outcome could not be written to the journal");
                }
            }
        }
    }

    fn begin(&mut self, request: Request) -> Result<(), Reason> {
        let named: Named = self.names.of(&request.target).ok_or(Reason::NoTarget)?;
        let lane = named.lane();
        if self.running.values().any(|running| running.acting && running.lane == lane) {
            return Err(Reason::Busy);
        }
        let tools = self.tools.clone();
        let work = async move {
            let (done, hand) = act::act(tools, request, named).await;
            Step::Acted(done, hand)
        };
        let id = self.tasks.spawn(work).id();
        self.running.insert(id, Running { request, lane, acting: true });
        Ok(())
    }

    /// What was done elsewhere takes no lane: its target is taken in the engine until the outcome is known.
    async fn look(&mut self, request: Request) {
        let Some(named) = self.names.of(&request.target) else {
            self.report(verified(&request, None)).await;
            return;
        };
        let lane = named.lane();
        let tools = self.tools.clone();
        let work = async move {
            Step::Looked(match act::seen(&tools, &request, named).await {
                Ok(hand) => verify::verify(&tools.systemd, &hand, None, request.verify_ns).await,
                Err(healthy) => healthy,
            })
        };
        let id = self.tasks.spawn(work).id();
        self.running.insert(id, Running { request, lane, acting: false });
    }

    async fn ended(&mut self, ended: Result<(Id, Step), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        // Taken out first: the target is free before anybody hears of it.
        let Some(running) = self.running.remove(&id) else { return };
        let report = match ended {
            Ok((_, Step::Acted(done, hand))) => {
                if let Some(hand) = hand {
                    self.look_after(running, hand);
                }
                HandReport::Done(done)
            }
            Ok((_, Step::Looked(healthy))) => verified(&running.request, healthy),
            Err(error) => {
                tracing::error!(id = running.request.id, %error, "an action's task died");
                // Whether something was touched is not known; the journal has its intent.
                if running.acting {
                    refusal(&running.request, Reason::SystemError)
                } else {
                    verified(&running.request, None)
                }
            }
        };
        self.report(report).await;
    }

    /// What was done is looked at until its verdict is due.
    fn look_after(&mut self, running: Running, hand: Hand) {
        let tools = self.tools.clone();
        let verify_ns = running.request.verify_ns;
        let work = async move {
            let baseline = act::baseline(&tools.systemd, &hand).await;
            Step::Looked(verify::verify(&tools.systemd, &hand, baseline.as_ref(), verify_ns).await)
        };
        let id = self.tasks.spawn(work).id();
        self.running.insert(id, Running { acting: false, ..running });
    }

    async fn report(&mut self, report: HandReport) {
        if self.reports.send(report).await.is_err() {
            tracing::warn!(?report, "nobody hears this report any more");
        }
    }
}

fn refusal(request: &Request, reason: Reason) -> HandReport {
    HandReport::Done(Done { id: request.id, reason: Some(reason), started_ns: 0, finished_ns: monotonic_ns() })
}

fn verified(request: &Request, healthy: Option<bool>) -> HandReport {
    HandReport::Verified(Verified { id: request.id, healthy, now_ns: monotonic_ns() })
}
