//! One action, from the request to the look at its target's health. In: a request and its target's name. Out: a [`Done`],
//! and what is to be looked at afterwards.
//!
//! The order is the point: brakes, a look at the target that changes nothing, the intent on the disk, the brakes that time
//! moves once more, the act, its end on the disk. What fails before the act is a refusal with `started_ns` 0.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    Journal, Standing,
    guard::{Guard, still_due},
    names::Named,
};
use crate::{
    clock::monotonic_ns,
    heal::{
        HandError,
        cgroup::{Prepared, Target, Undo, prepare},
        systemd::{Systemd, SystemdError, UnitHealth},
    },
    kernel::CgroupLayout,
    model::action::{Done, Reason, Request, Verb},
};

/// What every action needs.
#[derive(Debug)]
pub(super) struct Tools<J> {
    pub systemd: Systemd,
    pub layout: CgroupLayout,
    pub guard: Guard,
    pub standing: Arc<Standing>,
    /// Locked only on threads that may block, for the time of one sync.
    pub journal: Mutex<J>,
}

/// Something that was looked at and is ready to be acted upon; afterwards, what is verified.
#[derive(Clone, Debug)]
pub(super) enum Hand {
    Unit { name: Arc<str>, verb: Verb },
    Cgroup(Arc<Prepared>),
}

/// Why it failed, and whether something was touched by then.
struct Failure {
    reason: Reason,
    touched: bool,
}

/// Does it. `Some` beside a success: what to look at.
pub(super) async fn act<J: Journal>(tools: Arc<Tools<J>>, request: Request, named: Named) -> (Done, Option<Hand>) {
    let refused =
        |reason| (Done { id: request.id, reason: Some(reason), started_ns: 0, finished_ns: monotonic_ns() }, None);
    let name = named.name();
    let hand = match prepared(&tools, &request, named).await {
        Ok(hand) => hand,
        Err(reason) => return refused(reason),
    };
    let undo = match &hand {
        Hand::Unit { .. } => Undo::default(),
        Hand::Cgroup(prepared) => prepared.undo(),
    };
    if request.verb == Verb::FreezeCgroup && undo.changes.is_empty() {
        return refused(Reason::AlreadyFrozen);
    }
    if let Err(reason) = write(&tools, move |journal| journal.intend(monotonic_ns(), &request, &name, &undo)).await {
        // What undoes is done all the same: better unwritten than frozen for ever.
        if request.verb != Verb::ThawCgroup {
            return refused(reason);
        }
        tracing::error!(id = request.id, reason = reason.name(), "a thaw that the journal does not know of");
    }
    let (done, hand) = match still_due(&request, &tools.standing) {
        // It may have taken its time: the disk may be the very thing that is ill.
        Err(reason) => refused(reason),
        Ok(()) => moved(&tools, &request, hand).await,
    };
    if let Err(reason) = write(&tools, move |journal| journal.done(&done)).await {
        tracing::error!(
            id = done.id,
            reason = reason.name(),
            "what was done could not be written down; the journal calls it half-done"
        );
    }
    (done, hand)
}

/// The brakes, and a look at the target; nothing is touched.
async fn prepared<J: Journal>(tools: &Arc<Tools<J>>, request: &Request, named: Named) -> Result<Hand, Reason> {
    still_due(request, &tools.standing)?;
    tools.guard.judge(&named)?;
    match (request.verb, named) {
        (verb @ (Verb::RestartUnit | Verb::StopUnit), Named::Unit(name)) => {
            let health = tools.systemd.health(&name).await.map_err(|error| said(request, &error, error.reason()))?;
            tools.guard.judge_unit(&health.cgroup, health.main_pid)?;
            Ok(Hand::Unit { name, verb })
        }
        (Verb::RestartUnit | Verb::StopUnit, Named::Cgroup { .. }) | (_, Named::Unit(_)) => Err(Reason::NoTarget),
        (_, Named::Cgroup { tree, id, path }) => {
            let (tools, request) = (tools.clone(), *request);
            let look = move || {
                let target = Target::open(&tools.layout, tree, &path, id)?;
                prepare(&tools.layout, &tools.guard.pids, request.verb, request.limit, target)
            };
            let prepared = blocking(look).await?.map_err(|error: HandError| said(&request, &error, error.reason()))?;
            Ok(Hand::Cgroup(Arc::new(prepared)))
        }
    }
}

/// What a reflex acted upon, to be looked at; or its health where it is gone.
pub(super) async fn seen<J: Journal>(
    tools: &Arc<Tools<J>>,
    request: &Request,
    named: Named,
) -> Result<Hand, Option<bool>> {
    let Named::Cgroup { tree, id, path } = named else { return Err(None) };
    let (tools, request) = (tools.clone(), *request);
    let look = move || {
        let target = Target::open(&tools.layout, tree, &path, id)?;
        prepare(&tools.layout, &tools.guard.pids, request.verb, request.limit, target)
    };
    match blocking(look).await {
        Ok(Ok(prepared)) => Ok(Hand::Cgroup(Arc::new(prepared))),
        // Killed to the last process, and removed by whoever made it.
        Ok(Err(error)) if matches!(error.reason(), Reason::TargetGone | Reason::CgroupRecreated) => {
            Err((request.verb == Verb::Kill).then_some(true))
        }
        _ => Err(None),
    }
}

/// The act itself.
async fn moved<J: Journal>(tools: &Tools<J>, request: &Request, hand: Hand) -> (Done, Option<Hand>) {
    let started_ns = monotonic_ns();
    let result = match &hand {
        Hand::Unit { name, verb } => move_unit(&tools.systemd, name, *verb, request).await,
        Hand::Cgroup(prepared) => move_cgroup(prepared.clone(), started_ns, request).await,
    };
    let finished_ns = monotonic_ns();
    match result {
        Ok(()) => (Done { id: request.id, reason: None, started_ns, finished_ns }, Some(hand)),
        Err(Failure { reason, touched }) => {
            let started_ns = if touched { started_ns } else { 0 };
            (Done { id: request.id, reason: Some(reason), started_ns, finished_ns }, None)
        }
    }
}

async fn move_unit(systemd: &Systemd, name: &str, verb: Verb, request: &Request) -> Result<(), Failure> {
    let timeout = Duration::from_nanos(request.timeout_ns);
    let result: Result<(), SystemdError> = match verb {
        Verb::StopUnit => systemd.stop(name, timeout).await,
        _ => systemd.restart(name, timeout).await.map(drop),
    };
    result.map_err(|error| Failure { reason: said(request, &error, error.reason()), touched: error.touched() })
}

async fn move_cgroup(prepared: Arc<Prepared>, started_ns: u64, request: &Request) -> Result<(), Failure> {
    let deadline_ns = started_ns.saturating_add(request.timeout_ns);
    let result = blocking(move || prepared.apply(deadline_ns)).await;
    let failed = |error: HandError| Failure { reason: said(request, &error, error.reason()), touched: true };
    result.map_err(|reason| Failure { reason, touched: true })?.map_err(failed)
}

/// The health that verification compares with.
pub(super) async fn baseline(systemd: &Systemd, hand: &Hand) -> Option<UnitHealth> {
    match hand {
        Hand::Unit { name, .. } => systemd.health(name).await.ok(),
        Hand::Cgroup(_) => None,
    }
}

/// The message goes to the log, the word to the engine.
fn said(request: &Request, error: &dyn std::error::Error, reason: Reason) -> Reason {
    tracing::warn!(id = request.id, verb = request.verb.name(), %error, "action failed");
    reason
}

/// Writes to the journal, off this thread: it syncs.
async fn write<J: Journal>(
    tools: &Arc<Tools<J>>,
    record: impl FnOnce(&mut J) -> Result<(), Reason> + Send + 'static,
) -> Result<(), Reason> {
    let tools = tools.clone();
    // Poisoned: a write panicked, and what the file holds is not known.
    blocking(move || record(&mut *tools.journal.lock().map_err(|_| Reason::NoJournal)?)).await?
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Reason> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Reason::SystemError)
}
