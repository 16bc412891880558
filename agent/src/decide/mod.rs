//! Decide: signals of living faults, names, and what the hands answer in; requests for the hands and the lines of
//! actions out.
//!
//! A fault is answered by the first plan of the file that matches it. Its steps are tried in order, each when
//! the one before it failed, and each passes the brakes, in this order: age of the evidence, scope, protection,
//! another action on the same place, cool-down, budget, blast radius, breaker, and that the fault still stands.
//! (Identity is judged where the handle is: in `heal`.) Whatever is refused is said with its reason, once per fault,
//! step and reason.
//!
//! A freeze is a pause: after its `hold` the decider thaws on its own. That thaw undoes, so no brake stops it, and
//! it is tried again when the hands refuse.
//!
//! Pure: no clock, no I/O, nothing allocated after [`Decider::new`] except where names are learned.
#![forbid(unsafe_code)]

mod answers;
mod brakes;
mod places;
mod run;

use brakes::Brakes;
use places::{Places, Target};
use run::{Key, NEVER, Phase, Run, Subject};

use faultline_common::{event::ProcessExit, exit};

use crate::{
    config::{
        Config, Mode,
        policy::{Plan, Step},
    },
    model::{
        action::{Action, Decision, Outcome, Reason, Request, Verb},
        bounded::BoundedMap,
        entity::{Entity, Tree},
        fault::{Fault, Kind, State},
        input::CgroupName,
        snapshot::{Loader, Saver, SnapshotError},
    },
};

const SIGKILL: u32 = 9;
/// Runs at the same time.
const RUNS: usize = 1024;
/// After an action's time is over, the hands have this long to say so; as long again for its health, ns.
pub const GRACE_NS: u64 = 5_000_000_000;

/// What follows from one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decided {
    /// The hands shall do this and answer with `Done`, and after `verify_ns` with `Verified`.
    Act(Request),
    /// A line to print.
    Line(Action),
}

/// The decider.
#[derive(Debug)]
pub struct Decider {
    act: bool,
    plans: Vec<Plan>,
    places: Places,
    brakes: Brakes,
    runs: BoundedMap<Key, Run>,
    /// Runs whose time has come; kept for its memory.
    due: Vec<Key>,
    last_id: u64,
    stopping: bool,
}

impl Decider {
    /// From a valid configuration. In mode `observe` it decides the same, but asks nobody.
    pub fn new(config: &Config) -> Self {
        let policy = &config.policy;
        Self {
            act: config.mode == Mode::Act,
            plans: policy.plans.clone(),
            places: Places::new(policy),
            brakes: Brakes::new(&policy.budget),
            runs: BoundedMap::with_capacity(RUNS),
            due: Vec::with_capacity(RUNS),
            last_id: 0,
            stopping: false,
        }
    }

    /// Appends everything that was decided and learned.
    pub fn save(&self, to: &mut Saver<'_>) {
        self.places.save(to);
        self.brakes.save(to);
        to.put(&self.runs);
        to.put(&self.last_id);
    }

    /// Takes what [`Self::save`] wrote under the same policy.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        self.places.load(from)?;
        self.brakes.load(from)?;
        (self.runs, self.last_id) = (from.take()?, from.take()?);
        Ok(())
    }

    /// The agent is about to end: from now on only what undoes is asked for. What is frozen is thawed now, and what is
    /// being verified is not known, since nobody will be there to hear it.
    pub fn stop(&mut self, now_ns: u64, out: &mut impl FnMut(Decided)) {
        self.stopping = true;
        let mut all = std::mem::take(&mut self.due);
        all.extend(self.runs.iter().map(|(key, _)| *key));
        for key in all.drain(..) {
            let Some(mut run) = self.runs.peek(&key).copied() else { continue };
            match run.phase {
                Phase::Held => self.thaw(&mut run, now_ns, out),
                Phase::Verifying => self.end(&key, &mut run, Outcome::Unknown, now_ns, out),
                Phase::Idle | Phase::Asked | Phase::Thawing => {}
            }
            self.keep(key, run);
        }
        self.due = all;
    }

    /// Takes a cgroup's name in.
    pub fn learn_cgroup(&mut self, name: &CgroupName) {
        self.places.learn_cgroup(name);
    }

    /// A cgroup was removed.
    pub fn forget_cgroup(&mut self, name: &CgroupName) {
        self.places.forget(name);
    }

    /// Takes in the cgroup paths of the agent, its guardian and PID 1. Until this was called, everything is
    /// protected.
    pub fn learn_own(&mut self, paths: &[String]) {
        self.places.learn_own(paths);
    }

    /// A detector spoke: `fault` is the living fault with the newest evidence, `cause_ns` being the time of the
    /// event behind this very signal (`None`: a reading, at `at_ns`).
    pub fn signal(&mut self, fault: &Fault, now_ns: u64, out: &mut impl FnMut(Decided)) {
        if fault.kind == Kind::OomKill && fault.cause_ns.is_none() {
            // A victim is through with dying. That belongs to the kill that was told; it is no new one.
            return;
        }
        let evidence_ns = fault.cause_ns.unwrap_or(fault.at_ns);
        let key = self.key(fault);
        let Some(mut run) = self.run_for(&key, fault, now_ns, out) else { return };
        run.hear(fault, evidence_ns);
        match run.phase {
            Phase::Idle => self.attempt(&key, &mut run, now_ns, out),
            Phase::Verifying if evidence_ns > run.over_ns => self.end(&key, &mut run, Outcome::Failed, now_ns, out),
            Phase::Asked | Phase::Held | Phase::Thawing | Phase::Verifying => {}
        }
        self.keep(key, run);
    }

    /// A fault is clearing or closed.
    pub fn quiet(&mut self, fault: &Fault, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let key = self.key(fault);
        let Some(mut run) = self.runs.peek(&key).copied().filter(|run| run.fault == fault.id) else { return };
        (run.stands, run.closed) = (false, fault.state == State::Closed);
        if run.phase == Phase::Idle && run.due_ns != NEVER {
            run.due_ns = NEVER;
            self.refuse(&mut run, Reason::FaultCleared, now_ns, out);
        }
        self.keep(key, run);
    }

    /// Time goes on.
    pub fn tick(&mut self, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let mut due = std::mem::take(&mut self.due);
        due.extend(self.runs.iter().filter(|(_, run)| run.due_ns <= now_ns).map(|(key, _)| *key));
        for key in due.drain(..) {
            let Some(mut run) = self.runs.peek(&key).copied() else { continue };
            match run.phase {
                Phase::Idle => self.attempt(&key, &mut run, now_ns, out),
                Phase::Asked => self.lost(&key, &mut run, now_ns, out),
                Phase::Held => self.thaw(&mut run, now_ns, out),
                Phase::Thawing => self.thaw_lost(&key, &mut run, now_ns, out),
                Phase::Verifying => self.end(&key, &mut run, Outcome::Unknown, now_ns, out),
            }
            self.keep(key, run);
        }
        self.due = due;
    }

    /// Whether this death is the doing of an action that is under way, and so no news about what is ill: by SIGKILL, or
    /// with the status of a service that was told to stop.
    pub fn caused(&self, e: &ProcessExit) -> bool {
        let signal = exit::signal(e.exit_code);
        if signal != 0 && signal != SIGKILL {
            return false;
        }
        let Some(place) = self.places.place_in_scope(Tree::Process, e.header.cgroup_id) else { return false };
        self.runs.iter().any(|(_, run)| run.is_at(place) && run.ends_what_began(e.start_ns, signal))
    }

    fn key(&self, fault: &Fault) -> Key {
        let subject = self.places.path_of(&fault.entity).map_or(Subject::Entity(fault.entity), Subject::Path);
        (fault.kind, subject)
    }

    /// The run that answers the fault, by the first plan that matches. What is under way keeps its plan.
    fn run_for(&mut self, key: &Key, fault: &Fault, now_ns: u64, out: &mut impl FnMut(Decided)) -> Option<Run> {
        let present = self.runs.peek(key).copied();
        if present.is_some_and(|run| run.phase != Phase::Idle) {
            return present;
        }
        let plan = (0..self.plans.len()).find(|index| self.matches(*index, fault))?;
        if let Some(run) = present.filter(|run| run.plan == plan) {
            return Some(run);
        }
        let mut run = Run::new(plan, fault);
        if present.is_none() && !self.make_room() {
            self.refuse(&mut run, Reason::Busy, now_ns, out);
            return None;
        }
        Some(run)
    }

    fn matches(&self, index: usize, fault: &Fault) -> bool {
        let plan = &self.plans[index];
        plan.on == fault.kind
            && plan.class.is_none_or(|class| class == fault.class)
            && fault.severity >= plan.severity
            && self.places.fits(index, &fault.entity)
    }

    /// Room for one more run. Only idle ones may leave, the one with the oldest evidence first.
    fn make_room(&mut self) -> bool {
        if self.runs.len() < RUNS {
            return true;
        }
        let idle = self.runs.iter().filter(|(_, run)| run.phase == Phase::Idle);
        let oldest = idle.min_by_key(|(_, run)| run.evidence_ns).map(|(key, _)| *key);
        oldest.is_some_and(|key| self.runs.remove(&key).is_some())
    }

    /// Stores what became of a run; one without a living fault ends when nothing is under way.
    fn keep(&mut self, key: Key, run: Run) {
        if run.closed && run.phase == Phase::Idle {
            self.runs.remove(&key);
        } else {
            self.runs.insert_or_evict(key, run);
        }
    }

    /// Tries the current step, and the next one where a breaker stops it.
    fn attempt(&mut self, key: &Key, run: &mut Run, now_ns: u64, out: &mut impl FnMut(Decided)) {
        run.due_ns = NEVER;
        while let Some(step) = self.plans[run.plan].steps.get(run.step).copied() {
            let refused = match self.judge(key, run, &step, now_ns) {
                Ok(target) => return self.go(run, &step, &target, now_ns, out),
                Err(refused) => refused,
            };
            self.refuse(run, refused.reason, now_ns, out);
            run.due_ns = refused.again_ns;
            if refused.reason != Reason::BreakerOpen {
                return;
            }
            run.go_to(run.step + 1, run.escalates);
        }
        self.refuse(run, Reason::PlanExhausted, now_ns, out);
    }

    /// All brakes in order.
    fn judge(&mut self, key: &Key, run: &Run, step: &Step, now_ns: u64) -> Result<Target, Refused> {
        if self.stopping {
            return Err(Reason::Stopping.into());
        }
        self.brakes.fresh(run.evidence_ns, now_ns)?;
        let target = self.places.target(step.verb, &run.entity)?;
        target.allowed()?;
        let place = target.place;
        if self.runs.iter().any(|(other, run)| other != key && run.is_at(place)) {
            return Err(Refused { reason: Reason::Busy, again_ns: now_ns });
        }
        let cool_ns = self.brakes.cool_from(place).unwrap_or(NEVER);
        self.brakes.cool(place, run.escalates, now_ns).map_err(|reason| Refused { reason, again_ns: cool_ns })?;
        self.brakes.within_budget(now_ns)?;
        self.brakes.within_blast_radius(place, self.places.known(), now_ns)?;
        self.brakes.closed(strategy(key, step.verb), now_ns)?;
        if run.stands { Ok(target) } else { Err(Reason::FaultCleared.into()) }
    }

    /// Every brake let go.
    fn go(&mut self, run: &mut Run, step: &Step, target: &Target, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let request = self.request(run, step, target.entity);
        self.brakes.spend(target.place, now_ns);
        run.asked = Some((request, target.place));
        run.asked_ns = now_ns;
        if self.act {
            run.enter(Phase::Asked, now_ns.saturating_add(step.timeout_ns).saturating_add(GRACE_NS));
            out(Decided::Act(request));
        } else {
            out(Decided::Line(Action { decision: Decision::DryRun, ..blank(&request, now_ns) }));
            run.go_to(run.step + 1, true);
        }
    }

    fn request(&mut self, run: &Run, step: &Step, target: Entity) -> Request {
        // A freeze is verified after its thaw.
        let verify_ns = if step.verb == Verb::FreezeCgroup { 0 } else { step.verify_ns };
        Request {
            id: self.next_id(),
            fault: run.fault,
            verb: step.verb,
            target,
            limit: step.limit,
            evidence_ns: run.evidence_ns,
            evidence_max_age_ns: self.brakes.evidence_max_age_ns(),
            timeout_ns: step.timeout_ns,
            verify_ns,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Says why nothing is done, unless it was said already.
    fn refuse(&mut self, run: &mut Run, reason: Reason, now_ns: u64, out: &mut impl FnMut(Decided)) {
        if !run.is_news(reason) {
            return;
        }
        let steps = &self.plans[run.plan].steps;
        let Some(verb) = steps.get(run.step).or(steps.last()).map(|step| step.verb) else { return };
        let target = self.places.target(verb, &run.entity).map_or(run.entity, |target| target.entity);
        out(Decided::Line(Action {
            id: self.next_id(),
            fault: run.fault,
            verb,
            target,
            decision: Decision::Refused,
            reason: Some(reason),
            started_ns: None,
            finished_ns: None,
            outcome: None,
            at_ns: now_ns,
        }));
    }
}

/// A refusal, and when to try again by itself.
struct Refused {
    reason: Reason,
    again_ns: u64,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reason, again_ns: NEVER }
    }
}

/// What a breaker is about: the verb, on what is ill.
fn strategy(key: &Key, verb: Verb) -> brakes::Strategy {
    let ill = match key.1 {
        Subject::Path(path) => path,
        // Without a name there is no target, so no strategy either.
        Subject::Entity(_) => 0,
    };
    (verb, ill)
}

/// The line of a request about which nothing is known yet.
fn blank(request: &Request, now_ns: u64) -> Action {
    Action {
        id: request.id,
        fault: request.fault,
        verb: request.verb,
        target: request.target,
        decision: Decision::Executed,
        reason: None,
        started_ns: None,
        finished_ns: None,
        outcome: None,
        at_ns: now_ns,
    }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
