//! Answers: what the hands did and what they saw of the entity's health in; the rest of a run out: verify, thaw,
//! recovered, or the next step.

use super::{Decided, Decider, GRACE_NS, Key, Phase, Run, blank, strategy};
use crate::model::{
    action::{Action, Decision, Done, Outcome, Reason, Request, Verb, Verified},
    bounded::BoundedMap,
};

/// How often a thaw is asked for before it is given up and said to be unknown: whatever is in the way, a disk that is
/// full or a queue, may take minutes to pass.
const THAWS: u8 = 250;
/// Pause between two of them, ns.
const THAW_AGAIN_NS: u64 = 1_000_000_000;
/// The hands may take a thaw for fresh this long, ns: what undoes is never too old.
const THAW_MAX_AGE_NS: u64 = 3600 * 1_000_000_000;

impl Decider {
    /// The hands are through with an action. One that nobody waits for any more is ignored: its line was printed.
    pub fn done(&mut self, done: &Done, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let Some((key, mut run)) = awaiting(&self.runs, done.id) else { return };
        let Some((_, place)) = run.asked else { return };
        self.brakes.over(place, now_ns);
        run.over_ns = now_ns;
        match run.phase {
            Phase::Asked => self.acted(&key, &mut run, done, now_ns, out),
            Phase::Thawing => self.thawed(&key, &mut run, done, now_ns, out),
            Phase::Idle | Phase::Held | Phase::Verifying => {}
        }
        self.keep(key, run);
    }

    /// The hands looked at the entity at the end of `verify_for`.
    pub fn verified(&mut self, verified: &Verified, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let Some((key, mut run)) = awaiting(&self.runs, verified.id) else { return };
        if run.phase != Phase::Verifying {
            return;
        }
        let outcome = match verified.healthy {
            Some(true) => Outcome::Recovered,
            Some(false) => Outcome::Failed,
            None => Outcome::Unknown,
        };
        self.end(&key, &mut run, outcome, now_ns, out);
        self.keep(key, run);
    }

    /// An answer to a step of the plan.
    fn acted(&mut self, key: &Key, run: &mut Run, done: &Done, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let Some((asked, _)) = run.asked else { return };
        out(Decided::Line(answer(&asked, done, now_ns)));
        let step = self.plans[run.plan].steps[run.step];
        run.times = [times(done), None];
        match done.reason {
            // Nothing was touched: the same step answers the next signal.
            Some(_) if done.started_ns == 0 => run.go_to(run.step, run.escalates),
            // It may be half frozen.
            Some(_) if run.froze() => {
                run.spoiled = Some(Outcome::Failed);
                self.thaw(run, now_ns, out);
            }
            Some(_) => self.conclude(key, run, Outcome::Failed, now_ns, out),
            None if run.froze() && self.stopping => self.thaw(run, now_ns, out),
            None if run.froze() => run.enter(Phase::Held, now_ns.saturating_add(step.hold_ns)),
            None => self.verify(key, run, step.verify_ns, now_ns, out),
        }
    }

    /// An answer to the thaw that ends a freeze.
    fn thawed(&mut self, key: &Key, run: &mut Run, done: &Done, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let (Some((freeze, _)), Some((id, tries))) = (run.asked, run.thaw) else { return };
        let thaw = Request { id, verb: Verb::ThawCgroup, ..freeze };
        out(Decided::Line(answer(&thaw, done, now_ns)));
        run.times[1] = times(done);
        let gone = matches!(done.reason, Some(Reason::TargetGone | Reason::CgroupRecreated));
        match (done.reason, run.spoiled) {
            (Some(_), _) if !gone && tries < THAWS => run.enter(Phase::Held, now_ns.saturating_add(THAW_AGAIN_NS)),
            // Gone: nothing is frozen any more. Given up: it was said each time.
            (Some(_), spoiled) => {
                run.thaw = None;
                self.end(key, run, spoiled.unwrap_or(Outcome::Unknown), now_ns, out);
            }
            (None, Some(spoiled)) => self.end(key, run, spoiled, now_ns, out),
            (None, None) => {
                let verify_ns = self.plans[run.plan].steps[run.step].verify_ns;
                self.verify(key, run, verify_ns, now_ns, out);
            }
        }
    }

    /// It was done: its health is told later, unless the agent ends before.
    fn verify(&mut self, key: &Key, run: &mut Run, verify_ns: u64, now_ns: u64, out: &mut impl FnMut(Decided)) {
        run.enter(Phase::Verifying, now_ns.saturating_add(verify_ns).saturating_add(GRACE_NS));
        if self.stopping {
            self.end(key, run, Outcome::Unknown, now_ns, out);
        }
    }

    /// Asks for the thaw that ends a freeze. No brake: it undoes what the agent did itself.
    pub(super) fn thaw(&mut self, run: &mut Run, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let Some((freeze, _)) = run.asked else { return };
        let tries = run.thaw.map_or(0, |thaw| thaw.1);
        let id = self.next_id();
        run.thaw = Some((id, tries.saturating_add(1)));
        run.enter(Phase::Thawing, now_ns.saturating_add(freeze.timeout_ns).saturating_add(GRACE_NS));
        out(Decided::Act(Request {
            id,
            verb: Verb::ThawCgroup,
            evidence_ns: now_ns,
            evidence_max_age_ns: THAW_MAX_AGE_NS,
            verify_ns: self.plans[run.plan].steps[run.step].verify_ns,
            ..freeze
        }));
    }

    /// The hands never answered a step.
    pub(super) fn lost(&mut self, key: &Key, run: &mut Run, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let Some((asked, place)) = run.asked else { return };
        self.brakes.over(place, now_ns);
        out(Decided::Line(unanswered(&asked, now_ns)));
        if run.froze() {
            run.spoiled = Some(Outcome::Unknown);
            self.thaw(run, now_ns, out);
        } else {
            self.conclude(key, run, Outcome::Unknown, now_ns, out);
        }
    }

    /// The hands never answered a thaw: it is said, and asked for again.
    pub(super) fn thaw_lost(&mut self, key: &Key, run: &mut Run, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let (Some((freeze, place)), Some((id, tries))) = (run.asked, run.thaw) else { return };
        self.brakes.over(place, now_ns);
        let thaw = Request { id, verb: Verb::ThawCgroup, ..freeze };
        out(Decided::Line(unanswered(&thaw, now_ns)));
        if tries < THAWS {
            self.thaw(run, now_ns, out);
        } else {
            run.thaw = None;
            self.end(key, run, run.spoiled.unwrap_or(Outcome::Unknown), now_ns, out);
        }
    }

    /// The outcome of a step is known: says it and goes on.
    pub(super) fn end(
        &mut self,
        key: &Key,
        run: &mut Run,
        outcome: Outcome,
        now_ns: u64,
        out: &mut impl FnMut(Decided),
    ) {
        let Some((asked, _)) = run.asked else { return };
        let line = |request: &Request, times: Option<(u64, u64)>, outcome| {
            let (started_ns, finished_ns) = times.unzip();
            Decided::Line(Action { started_ns, finished_ns, outcome: Some(outcome), ..blank(request, now_ns) })
        };
        if run.spoiled.is_none() {
            out(line(&asked, run.times[0], outcome));
        }
        if let Some((id, _)) = run.thaw {
            // After a freeze that went wrong nobody looks at what its thaw did.
            let outcome = if run.spoiled.is_some() { Outcome::Unknown } else { outcome };
            out(line(&Request { id, verb: Verb::ThawCgroup, ..asked }, run.times[1], outcome));
        }
        self.conclude(key, run, outcome, now_ns, out);
    }

    /// Goes on after an outcome that was said: from the start when it recovered, at once when it failed, and when
    /// nobody can tell with the next step once the fault speaks again.
    fn conclude(&mut self, key: &Key, run: &mut Run, outcome: Outcome, now_ns: u64, out: &mut impl FnMut(Decided)) {
        let Some((asked, _)) = run.asked else { return };
        self.brakes.judge(strategy(key, asked.verb), outcome, now_ns);
        match outcome {
            Outcome::Recovered => run.go_to(0, false),
            Outcome::Unknown => run.go_to(run.step + 1, true),
            Outcome::Failed => {
                // That it did not help is news about what is still ill.
                run.evidence_ns = run.evidence_ns.max(now_ns);
                run.go_to(run.step + 1, true);
                self.attempt(key, run, now_ns, out);
            }
        }
    }
}

/// The run that waits for an answer.
fn awaiting(runs: &BoundedMap<Key, Run>, id: u64) -> Option<(Key, Run)> {
    runs.iter().find(|(_, run)| run.awaits(id)).map(|(key, run)| (*key, *run))
}

fn times(done: &Done) -> Option<(u64, u64)> {
    (done.started_ns != 0).then_some((done.started_ns, done.finished_ns))
}

/// The line of what the hands answered.
fn answer(request: &Request, done: &Done, now_ns: u64) -> Action {
    let started = done.started_ns != 0;
    Action {
        decision: if done.reason.is_some() && !started { Decision::Refused } else { Decision::Executed },
        reason: done.reason,
        started_ns: started.then_some(done.started_ns),
        finished_ns: started.then_some(done.finished_ns),
        outcome: done.reason.filter(|_| started).map(|_| Outcome::Failed),
        ..blank(request, now_ns)
    }
}

/// The line of what the hands never answered.
fn unanswered(request: &Request, now_ns: u64) -> Action {
    Action { reason: Some(Reason::TimedOut), outcome: Some(Outcome::Unknown), ..blank(request, now_ns) }
}
