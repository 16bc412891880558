//! The hands of a live reactor. In: requests and everything the engine says. Out: an answer at once for what was done here,
//! by a prepared handle; else an order to the executor.
//!
//! On the reactor's thread: no wait, no lock, no allocation. What cannot be handed on is refused with its reason.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    executor::{Order, Orders, Standing},
    handles::Handles,
    journal::ReflexJournal,
};
use crate::{
    clock,
    model::{
        action::{Action, Decision, Done, Reason, Request, Verb},
        bounded::BoundedMap,
        fault::State,
        output::Output,
    },
    reactor::Hands,
    source::queue::Promises,
};

/// Reflex actions whose outcome may still come.
const REFLEXES: usize = 1024;

/// Hands that can act.
#[derive(Debug)]
pub struct Able {
    /// Prepared beforehand.
    pub handles: Handles,
    /// What was done here.
    pub journal: ReflexJournal,
    /// To the executor.
    pub orders: Orders,
    /// Which faults stand, for the executor.
    pub standing: Arc<Standing>,
    /// False while no guardian watches: then nothing is frozen or limited.
    pub guarded: Arc<AtomicBool>,
    /// Answers that the executor owes.
    pub promises: Promises,
}

/// The hands of a session.
#[derive(Debug)]
pub enum LiveHands {
    /// Mode `observe`: nobody asks.
    None,
    /// Mode `act`, but something that it cannot do without is missing: every request is refused with this reason.
    Bound(Reason),
    /// Mode `act`.
    Able(Box<Acting>),
}

/// [`Able`] at work.
#[derive(Debug)]
pub struct Acting {
    able: Able,
    /// What was done here, by id.
    reflexes: BoundedMap<u64, ()>,
}

impl LiveHands {
    /// Ready to act.
    pub fn able(able: Able) -> Self {
        Self::Able(Box::new(Acting { able, reflexes: BoundedMap::with_capacity(REFLEXES) }))
    }
}

impl Hands for LiveHands {
    fn act(&mut self, request: &Request) -> Option<Done> {
        match self {
            Self::None => None,
            Self::Bound(reason) => Some(refused(request, *reason)),
            Self::Able(acting) => acting.act(request),
        }
    }

    fn told(&mut self, output: &Output) {
        if let Self::Able(acting) = self {
            acting.told(output);
        }
    }

    fn tick(&mut self) {
        if let Self::Able(acting) = self {
            acting.able.handles.take_in();
        }
    }
}

impl Acting {
    fn act(&mut self, request: &Request) -> Option<Done> {
        let holds = matches!(request.verb, Verb::FreezeCgroup | Verb::LimitCgroup);
        if holds && !self.able.guarded.load(Ordering::Acquire) {
            return Some(refused(request, Reason::NoGuardian));
        }
        if let Some(done) = self.able.handles.execute(request, clock::monotonic_ns, &mut self.able.journal) {
            self.done_here(request, &done);
            return Some(done);
        }
        // The executor asks right before it acts.
        self.able.standing.opened(request.fault);
        match self.order(Order::Act(*request)) {
            Ok(()) => {
                self.able.promises.made();
                None
            }
            Err(reason) => Some(refused(request, reason)),
        }
    }

    fn done_here(&mut self, request: &Request, done: &Done) {
        let _ = self.reflexes.insert_or_evict(request.id, ());
        if done.reason.is_none() && request.verify_ns > 0 {
            // A full queue leaves the verdict unknown, which the engine says by itself.
            let _ = self.order(Order::Look(*request));
        }
    }

    fn told(&mut self, output: &Output) {
        match output {
            Output::Fault(fault) if fault.state != State::Open => self.able.standing.cleared(fault.id),
            Output::Action(action) => {
                if is_thawed(action) {
                    // However it was thawed, the freeze no longer stands in this journal.
                    self.able.journal.forget(action.target);
                }
                let Some(outcome) = action.outcome else { return };
                if self.reflexes.remove(&action.id).is_some() {
                    self.able.journal.outcome(action.id, outcome);
                } else {
                    let told = self.order(Order::Outcome { id: action.id, outcome, at_ns: action.at_ns });
                    if told.is_err() {
                        tracing::warn!(
                            id = action.id,
                            "the journal will not tell this action's outcome: the executor is behind"
                        );
                    }
                }
            }
            _ => {}
        }
    }

    fn order(&mut self, order: Order) -> Result<(), Reason> {
        if self.able.orders.send(order) { Ok(()) } else { Err(Reason::QueueFull) }
    }
}

/// Whether nothing of the target is frozen any more.
fn is_thawed(action: &Action) -> bool {
    let gone = matches!(action.reason, Some(Reason::TargetGone | Reason::CgroupRecreated));
    action.verb == Verb::ThawCgroup && (gone || (action.decision == Decision::Executed && action.reason.is_none()))
}

fn refused(request: &Request, reason: Reason) -> Done {
    Done { id: request.id, reason: Some(reason), started_ns: 0, finished_ns: clock::monotonic_ns() }
}
