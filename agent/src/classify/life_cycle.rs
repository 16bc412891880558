//! The life of a fault: signals and ticks in, transitions out.
//!
//! One fault per kind and entity: further signals count up instead of opening another. It stays open while
//! signals come, is `clearing` after a quiet time, and `closed` after a second one; a signal while clearing
//! opens it again under the same id and counts a flap. The table is bounded: when it is full, the fault that
//! was silent for longest is closed to make room.
#![forbid(unsafe_code)]

use super::{class, confidence, priority};
use crate::{
    config::Faults,
    model::{
        bounded::BoundedMap,
        entity::Entity,
        evidence::{Evidence, Value},
        fault::{Class, Fault, Kind, Signal, State},
        snapshot::{Loader, Saver, SnapshotError},
    },
};

/// Faults alive at the same time.
pub const ALIVE: usize = 1024;

/// All living faults.
#[derive(Debug)]
pub struct LifeCycle {
    rule: Faults,
    alive: BoundedMap<(Kind, Entity), Life>,
    last_id: u64,
    /// How often the kernel tells of a task that hangs, ns.
    hang_every_ns: u64,
}

/// `hung_task_timeout_secs` by default (kernel/hung_task.c).
const HANG_EVERY_NS: u64 = 120_000_000_000;

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Life {
    fault: Fault,
    last_signal_ns: u64,
    signals: u64,
    flaps: u64,
}

impl Life {
    fn transition(&mut self, state: State, at_ns: u64, cause_ns: Option<u64>) -> Fault {
        self.fault.state = state;
        self.fault.at_ns = at_ns;
        self.fault.cause_ns = cause_ns;
        self.fault.priority = priority(self.fault.severity, &self.fault.entity, self.signals);
        self.fault.evidence.set("signals", Value::Number(self.signals));
        if self.flaps > 0 {
            self.fault.evidence.set("flaps", Value::Number(self.flaps));
        }
        self.fault
    }
}

impl LifeCycle {
    /// No faults yet; ids start at 1.
    pub fn new(rule: &Faults) -> Self {
        Self { rule: *rule, alive: BoundedMap::with_capacity(ALIVE), last_id: 0, hang_every_ns: HANG_EVERY_NS }
    }

    /// Appends the living faults.
    pub fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.alive);
        to.put(&self.last_id);
        to.put(&self.hang_every_ns);
    }

    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        (self.alive, self.last_id, self.hang_every_ns) = (from.take()?, from.take()?, from.take()?);
        Ok(())
    }

    /// Takes a signal in. Prints a transition when a fault opens, opens again, or gets worse.
    pub fn signal(&mut self, signal: &Signal, now_ns: u64, lossy: bool, out: &mut impl FnMut(Fault)) {
        let key = (signal.kind, signal.entity);
        if signal.joins {
            if let Some(life) = self.alive.get_mut(&key) {
                merge(&mut life.fault.evidence, &signal.evidence);
            }
            return;
        }
        if let Some(life) = self.alive.get_mut(&key) {
            if let Some(fault) = again(life, signal, now_ns, lossy) {
                out(fault);
            }
            return;
        }
        self.last_id += 1;
        let mut life = born(signal, self.last_id, now_ns, lossy);
        out(life.transition(State::Open, now_ns, signal.cause_ns));
        if let Some((_, mut evicted)) = self.alive.insert_or_evict(key, life) {
            evicted.fault.evidence.set("evicted", Value::Flag(true));
            out(evicted.transition(State::Closed, now_ns, None));
        }
    }

    /// Lets quiet faults clear and close.
    pub fn tick(&mut self, now_ns: u64, out: &mut impl FnMut(Fault)) {
        let (rule, hang_every_ns) = (self.rule, self.hang_every_ns);
        self.alive.retain(|_, life| {
            let quiet_ns = now_ns.saturating_sub(life.last_signal_ns);
            let rule = rule_for(life.fault.kind, rule, hang_every_ns);
            match life.fault.state {
                State::Open if quiet_ns >= rule.clear_after_ns => {
                    out(life.transition(State::Clearing, now_ns, None));
                    true
                }
                State::Clearing if quiet_ns >= rule.clear_after_ns + rule.close_after_ns => {
                    out(life.transition(State::Closed, now_ns, None));
                    false
                }
                _ => true,
            }
        });
    }

    /// What the kernel is set to: a hung task that was not told again for longer goes on.
    pub fn hangs_are_told_every(&mut self, every_ns: u64) {
        self.hang_every_ns = every_ns;
    }

    /// A living fault.
    pub fn living(&self, kind: Kind, entity: Entity) -> Option<&Fault> {
        self.alive.peek(&(kind, entity)).map(|life| &life.fault)
    }

    /// Faults opened so far; the latest has this number.
    pub fn opened(&self) -> u64 {
        self.last_id
    }

    /// Faults that are open or clearing.
    pub fn alive(&self) -> usize {
        self.alive.len()
    }
}

/// A hung task is met again only at the kernel's next check; a quarter more for a check that is late.
fn rule_for(kind: Kind, rule: Faults, hang_every_ns: u64) -> Faults {
    let quiet_ns = hang_every_ns.saturating_add(hang_every_ns / 4);
    match kind {
        Kind::TaskHang => Faults { clear_after_ns: rule.clear_after_ns.max(quiet_ns), ..rule },
        _ => rule,
    }
}

fn born(signal: &Signal, id: u64, now_ns: u64, lossy: bool) -> Life {
    let fault = Fault {
        id,
        kind: signal.kind,
        class: class(signal),
        severity: signal.severity,
        priority: 0,
        confidence: confidence(signal.confidence, lossy),
        state: State::Open,
        entity: signal.entity,
        evidence: signal.evidence,
        opened_ns: now_ns,
        at_ns: now_ns,
        cause_ns: signal.cause_ns,
    };
    Life { fault, last_signal_ns: now_ns, signals: 1, flaps: 0 }
}

/// A further signal of a living fault; `Some` when it is worth a line.
fn again(life: &mut Life, signal: &Signal, now_ns: u64, lossy: bool) -> Option<Fault> {
    life.signals += 1;
    life.last_signal_ns = now_ns;
    merge(&mut life.fault.evidence, &signal.evidence);
    // Wrong data is news even on a disk that already fails, and stays the class of the fault from then on.
    let corrupts = class(signal) == Class::DataCorruption && life.fault.class != Class::DataCorruption;
    let worse = signal.severity > life.fault.severity || corrupts;
    if worse {
        life.fault.severity = life.fault.severity.max(signal.severity);
        if life.fault.class != Class::DataCorruption {
            life.fault.class = class(signal);
        }
    }
    let back = life.fault.state == State::Clearing;
    if back {
        life.flaps += 1;
    }
    life.fault.confidence = confidence(signal.confidence, lossy);
    (worse || back).then(|| life.transition(State::Open, now_ns, signal.cause_ns))
}

/// Newer facts replace older ones of the same name; older ones that the newer signal lacks stay.
fn merge(old: &mut Evidence, new: &Evidence) {
    for (name, value) in new.facts() {
        old.set(name, *value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fault::Severity;

    const RULE: Faults = Faults { clear_after_ns: 100, close_after_ns: 50 };

    fn signal(device: u32, severity: Severity) -> Signal {
        Signal {
            kind: Kind::DiskError,
            entity: Entity::Device(device),
            severity,
            confidence: 1000,
            evidence: Evidence::EMPTY,
            cause_ns: Some(1),
            joins: false,
        }
    }

    fn run(life: &mut LifeCycle, s: &Signal, at: u64) -> Vec<Fault> {
        let mut out = Vec::new();
        life.signal(s, at, false, &mut |f| out.push(f));
        out
    }

    fn tick(life: &mut LifeCycle, at: u64) -> Vec<State> {
        let mut out = Vec::new();
        life.tick(at, &mut |f| out.push(f.state));
        out
    }

    #[test]
    fn opens_once_clears_closes_and_then_opens_anew() {
        let mut life = LifeCycle::new(&RULE);
        assert_eq!(run(&mut life, &signal(1, Severity::Error), 0).len(), 1);
        assert!(run(&mut life, &signal(1, Severity::Error), 10).is_empty(), "the same again is no news");
        assert_eq!(tick(&mut life, 109), []);
        assert_eq!(tick(&mut life, 110), [State::Clearing]);
        assert_eq!(tick(&mut life, 160), [State::Closed]);
        assert_eq!(run(&mut life, &signal(1, Severity::Error), 170)[0].id, 2);
    }

    #[test]
    fn a_return_while_clearing_is_a_flap_of_the_same_fault() {
        let mut life = LifeCycle::new(&RULE);
        run(&mut life, &signal(1, Severity::Error), 0);
        tick(&mut life, 100);
        let back = run(&mut life, &signal(1, Severity::Error), 120);
        assert_eq!((back[0].id, back[0].state), (1, State::Open));
        assert!(back[0].evidence.facts().contains(&("flaps", Value::Number(1))));
    }

    #[test]
    fn getting_worse_is_news() {
        let mut life = LifeCycle::new(&RULE);
        run(&mut life, &signal(1, Severity::Warning), 0);
        assert_eq!(run(&mut life, &signal(1, Severity::Critical), 1)[0].severity, Severity::Critical);
    }

    #[test]
    fn corruption_on_a_failing_disk_is_news_and_stays() {
        let mut life = LifeCycle::new(&RULE);
        run(&mut life, &signal(1, Severity::Critical), 0);
        let corrupt = Signal { evidence: Evidence::EMPTY.flag("protection", true), ..signal(1, Severity::Critical) };
        let told = run(&mut life, &corrupt, 1);
        assert_eq!((told[0].id, told[0].class), (1, Class::DataCorruption));
        assert!(run(&mut life, &signal(1, Severity::Critical), 2).is_empty());
        assert_eq!(tick(&mut life, 200), [State::Clearing]);
    }

    #[test]
    fn what_only_joins_adds_evidence_and_keeps_nothing_alive() {
        let mut life = LifeCycle::new(&RULE);
        let joins =
            Signal { evidence: Evidence::EMPTY.flag("exited", true), joins: true, ..signal(1, Severity::Error) };
        assert!(run(&mut life, &joins, 0).is_empty() && life.alive() == 0, "opens nothing");
        run(&mut life, &signal(1, Severity::Error), 10);
        run(&mut life, &joins, 90);
        let mut out = Vec::new();
        life.tick(110, &mut |f| out.push(f));
        assert_eq!(out[0].state, State::Clearing, "the time of the last signal is that of the signal");
        assert!(out[0].evidence.facts().contains(&("exited", Value::Flag(true))));
        assert!(run(&mut life, &joins, 120).is_empty(), "no flap");
    }

    #[test]
    fn a_full_table_closes_the_quietest_fault_and_says_so() {
        let mut life = LifeCycle::new(&RULE);
        for device in 0..ALIVE as u32 {
            run(&mut life, &signal(device, Severity::Error), u64::from(device));
        }
        let out = run(&mut life, &signal(9999, Severity::Error), 5000);
        assert_eq!(out.len(), 2);
        assert_eq!((out[1].state, out[1].entity), (State::Closed, Entity::Device(0)));
        assert_eq!(life.alive(), ALIVE);
    }
}
