//! Brakes that count: what was done lately in; whether one more action may be done, out.
//!
//! Three tables of fixed size: the times of the last actions (budget), the places acted upon (cool-down, blast
//! radius) and the strategies that failed (breaker). A table that is full of entries that still matter refuses:
//! forgetting one would release a brake.

use crate::{
    config::policy::Budget,
    model::{
        action::{Outcome, Reason, Verb},
        bounded::BoundedMap,
        snapshot::{Loader, Saver, SnapshotError},
    },
};

/// Places whose last action is remembered.
const TARGETS: usize = 2048;
/// Strategies whose failures are remembered.
const STRATEGIES: usize = 2048;
/// Failures in a row that open a breaker.
const FAILURES: u8 = 2;
/// After this time an open breaker is closed again, ns.
pub(super) const OPEN_FOR_NS: u64 = 3600 * 1_000_000_000;

/// What is acted upon: the key of the place.
pub(super) type Place = u64;

/// A verb on what is ill, by the key of its path.
pub(super) type Strategy = (Verb, u64);

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Failures {
    in_a_row: u8,
    last_ns: u64,
}

/// Times at a place: when the last action was asked for, and when it was over.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Acted {
    asked_ns: u64,
    over_ns: u64,
}

/// Everything that counts.
#[derive(Debug)]
pub(super) struct Brakes {
    rule: Budget,
    /// Ring of the times of the last `rule.actions` actions.
    times: Box<[u64]>,
    total: usize,
    targets: BoundedMap<Place, Acted>,
    strategies: BoundedMap<Strategy, Failures>,
}

impl Brakes {
    pub(super) fn new(rule: &Budget) -> Self {
        Self {
            rule: *rule,
            times: vec![0; rule.actions.max(1)].into_boxed_slice(),
            total: 0,
            targets: BoundedMap::with_capacity(TARGETS),
            strategies: BoundedMap::with_capacity(STRATEGIES),
        }
    }

    /// Appends what was counted.
    pub(super) fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.times);
        to.put(&self.total);
        to.put(&self.targets);
        to.put(&self.strategies);
    }

    /// Takes what [`Self::save`] wrote.
    pub(super) fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        (self.times, self.total) = (from.take()?, from.take()?);
        (self.targets, self.strategies) = (from.take()?, from.take()?);
        Ok(())
    }

    /// How old evidence may be, ns.
    pub(super) fn evidence_max_age_ns(&self) -> u64 {
        self.rule.evidence_max_age_ns
    }

    /// Age of the evidence.
    pub(super) fn fresh(&self, evidence_ns: u64, now_ns: u64) -> Result<(), Reason> {
        let age_ns = now_ns.saturating_sub(evidence_ns);
        refuse_if(age_ns > self.rule.evidence_max_age_ns, Reason::EvidenceTooOld)
    }

    /// Cool-down of the place; the next step of a plan that failed need not wait.
    pub(super) fn cool(&self, place: Place, escalates: bool, now_ns: u64) -> Result<(), Reason> {
        let hot = !escalates && self.cool_from(place).is_some_and(|cool_ns| now_ns < cool_ns);
        refuse_if(hot, Reason::Cooldown)
    }

    /// When the cool-down of the place is over, ns.
    pub(super) fn cool_from(&self, place: Place) -> Option<u64> {
        self.targets.peek(&place).map(|acted| acted.over_ns.saturating_add(self.rule.cooldown_ns))
    }

    /// Budget per window.
    pub(super) fn within_budget(&self, now_ns: u64) -> Result<(), Reason> {
        let oldest = self.times[self.total % self.times.len()];
        let used_up = self.total >= self.times.len() && self.in_window(oldest, now_ns);
        refuse_if(used_up, Reason::Budget)
    }

    /// Blast radius: one more distinct place would be too many, as a number or as a share of `known`.
    pub(super) fn within_blast_radius(&mut self, place: Place, known: usize, now_ns: u64) -> Result<(), Reason> {
        if self.targets.len() == TARGETS {
            self.forget_cold(now_ns);
        }
        let hit = |acted: &Acted| self.in_window(acted.asked_ns, now_ns);
        if self.targets.peek(&place).is_some_and(hit) {
            return Ok(());
        }
        let others = self.targets.iter().filter(|(_, acted)| hit(acted)).count();
        let share = known.saturating_mul(self.rule.blast_share_percent.into()) / 100;
        let full = self.targets.len() == TARGETS && !self.targets.contains_key(&place);
        refuse_if(full || others >= self.rule.blast_count.min(share.max(1)), Reason::BlastRadius)
    }

    /// Breaker of the strategy.
    pub(super) fn closed(&self, strategy: Strategy, now_ns: u64) -> Result<(), Reason> {
        let open =
            |failed: &Failures| failed.in_a_row >= FAILURES && now_ns.saturating_sub(failed.last_ns) < OPEN_FOR_NS;
        refuse_if(self.strategies.peek(&strategy).is_some_and(open), Reason::BreakerOpen)
    }

    /// An action is asked for.
    pub(super) fn spend(&mut self, place: Place, now_ns: u64) {
        let next = self.total % self.times.len();
        self.times[next] = now_ns;
        self.total += 1;
        self.targets.insert_or_evict(place, Acted { asked_ns: now_ns, over_ns: now_ns });
    }

    /// An action is over; its place cools down from now on.
    pub(super) fn over(&mut self, place: Place, now_ns: u64) {
        if let Some(acted) = self.targets.get_mut(&place) {
            acted.over_ns = acted.over_ns.max(now_ns);
        }
    }

    /// What came of a strategy.
    pub(super) fn judge(&mut self, strategy: Strategy, outcome: Outcome, now_ns: u64) {
        match outcome {
            Outcome::Failed => self.failed(strategy, now_ns),
            Outcome::Recovered => Verb::ALL.iter().for_each(|verb| {
                self.strategies.remove(&(*verb, strategy.1));
            }),
            Outcome::Unknown => {}
        }
    }

    fn failed(&mut self, strategy: Strategy, now_ns: u64) {
        let (failures, _) =
            self.strategies.entry_or_insert_with(strategy, || Failures { in_a_row: 0, last_ns: now_ns });
        let stale = failures.in_a_row >= FAILURES && now_ns.saturating_sub(failures.last_ns) >= OPEN_FOR_NS;
        failures.in_a_row = if stale { 1 } else { failures.in_a_row.saturating_add(1) };
        failures.last_ns = now_ns;
    }

    fn forget_cold(&mut self, now_ns: u64) {
        let Budget { window_ns, cooldown_ns, .. } = self.rule;
        self.targets.retain(|_, acted| {
            now_ns.saturating_sub(acted.asked_ns) < window_ns || now_ns.saturating_sub(acted.over_ns) < cooldown_ns
        });
    }

    fn in_window(&self, then_ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(then_ns) < self.rule.window_ns
    }
}

fn refuse_if(refuse: bool, reason: Reason) -> Result<(), Reason> {
    if refuse { Err(reason) } else { Ok(()) }
}
