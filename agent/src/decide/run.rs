//! Run: what one plan is doing about what is ill. State only; `Decider` moves it.

use crate::model::{
    action::{Outcome, Reason, Request, Verb},
    entity::Entity,
    fault::{Fault, Kind},
};

/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;

/// What a run is about: it outlives the fault's id and the cgroup's, so that a unit that falls ill again in a new
/// cgroup counts as not healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(super) enum Subject {
    /// By the key of its path.
    Path(u64),
    /// Without a known name.
    Entity(Entity),
}

/// One run per kind of fault and subject.
pub(super) type Key = (Kind, Subject);

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) enum Phase {
    /// Nothing is under way; the next signal is answered by the current step. Due: a refused step is tried again.
    Idle,
    /// The hands were asked. Due: they lost it.
    Asked,
    /// Frozen. Due: thaw.
    Held,
    /// The hands were asked to thaw. Due: they lost it, or it is tried again.
    Thawing,
    /// It was done. Due: nobody told its health.
    Verifying,
}

/// What one plan is doing about one subject.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Run {
    pub(super) plan: usize,
    pub(super) step: usize,
    pub(super) phase: Phase,
    /// When the phase ends by itself, engine time, ns.
    pub(super) due_ns: u64,
    /// The newest fault about the subject.
    pub(super) fault: u64,
    pub(super) entity: Entity,
    /// It is open, not clearing or closed.
    pub(super) stands: bool,
    /// It is closed; the run ends with what is under way.
    pub(super) closed: bool,
    /// Engine time of the newest evidence, ns.
    pub(super) evidence_ns: u64,
    /// The step before this one was done and did not help.
    pub(super) escalates: bool,
    /// Reasons already said about this fault and step, by bit.
    said: u32,
    /// The last action, and the place it is about.
    pub(super) asked: Option<(Request, u64)>,
    /// The thaw that ends a freeze: its id, and how often it was asked for.
    pub(super) thaw: Option<(u64, u8)>,
    /// The freeze went wrong, which was said: thaw, but do not verify.
    pub(super) spoiled: Option<Outcome>,
    /// When the hands began and were through, of the last action and of its thaw, ns; printed, never judged.
    pub(super) times: [Option<(u64, u64)>; 2],
    /// When the action was asked for, and when it was over, engine time, ns.
    pub(super) asked_ns: u64,
    pub(super) over_ns: u64,
}

impl Run {
    pub(super) fn new(plan: usize, fault: &Fault) -> Self {
        Self {
            plan,
            step: 0,
            phase: Phase::Idle,
            due_ns: NEVER,
            fault: fault.id,
            entity: fault.entity,
            stands: true,
            closed: false,
            evidence_ns: 0,
            escalates: false,
            said: 0,
            asked: None,
            thaw: None,
            spoiled: None,
            times: [None; 2],
            asked_ns: 0,
            over_ns: 0,
        }
    }

    /// Takes in what a signal says. While the newest fault about the subject stands, a signal of an older one counts
    /// as its own.
    pub(super) fn hear(&mut self, fault: &Fault, evidence_ns: u64) {
        if fault.id > self.fault || (fault.id < self.fault && !self.stands) {
            (self.fault, self.entity, self.said) = (fault.id, fault.entity, 0);
        }
        (self.stands, self.closed) = (true, false);
        self.evidence_ns = self.evidence_ns.max(evidence_ns);
    }

    /// Whether this reason was not said yet about this fault and step; now it is.
    pub(super) fn is_news(&mut self, reason: Reason) -> bool {
        let bit = 1 << (reason as u32);
        let news = self.said & bit == 0;
        self.said |= bit;
        news
    }

    /// Goes to a step; in a new one everything is news again.
    pub(super) fn go_to(&mut self, step: usize, escalates: bool) {
        if step != self.step {
            self.said = 0;
        }
        (self.step, self.escalates) = (step, escalates);
        (self.phase, self.due_ns, self.thaw, self.spoiled) = (Phase::Idle, NEVER, None, None);
    }

    /// Enters a phase that ends by itself at `due_ns`.
    pub(super) fn enter(&mut self, phase: Phase, due_ns: u64) {
        (self.phase, self.due_ns) = (phase, due_ns);
    }

    /// Whether an action at this place is under way, which it is until its outcome is known.
    pub(super) fn is_at(&self, place: u64) -> bool {
        self.phase != Phase::Idle && self.asked.is_some_and(|(_, at)| at == place)
    }

    /// Whether the answer with this id is awaited.
    pub(super) fn awaits(&self, id: u64) -> bool {
        match self.phase {
            Phase::Idle | Phase::Held => false,
            Phase::Asked => self.asked.is_some_and(|(request, _)| request.id == id),
            Phase::Thawing => self.thaw.is_some_and(|thaw| thaw.0 == id),
            Phase::Verifying => self.verified_by() == Some(id),
        }
    }

    /// The action whose verification tells the outcome: a freeze's begins after its thaw.
    fn verified_by(&self) -> Option<u64> {
        self.thaw.map(|thaw| thaw.0).or_else(|| self.asked.map(|(request, _)| request.id))
    }

    /// Whether the action under way ends, by this signal (0: none), a process that was started then: a kill everything
    /// that was there until it was over, a restart or a stop what was there when it was asked for.
    pub(super) fn ends_what_began(&self, start_ns: u64, signal: u32) -> bool {
        let Some((request, _)) = self.asked.filter(|_| self.phase != Phase::Idle) else { return false };
        match request.verb {
            Verb::Kill => signal != 0 && (self.phase == Phase::Asked || start_ns <= self.over_ns),
            Verb::RestartUnit | Verb::StopUnit => start_ns <= self.asked_ns,
            Verb::FreezeCgroup | Verb::ThawCgroup | Verb::LimitCgroup => false,
        }
    }

    /// Whether the last action was to freeze.
    pub(super) fn froze(&self) -> bool {
        self.asked.is_some_and(|(request, _)| request.verb == Verb::FreezeCgroup)
    }
}
