//! (b) Kernel to decision. In: 10,000 real hard events a taker. Out: p50, p99 and p99.9, sleeping and spinning, the
//! agent's way against the bare consumer's.
//!
//! Rounds are interleaved, and the bare consumer runs twice in each: its two selves differ only by chance (the A/A
//! control), so a ratio between agent and bare that is no further from 1 than theirs says nothing.

use anyhow::Result;

use super::{
    Bench,
    consumer::{self, Taker, Task, Times},
    generator::{self, Death, Order},
    report::{Measure, Report},
    stats::{bootstrap, quantile},
};

/// Hard events per second: each finds the consumer asleep, and a round takes half a second.
const RATE: u64 = 2000;
const WARM: usize = 200;
/// Sleeping p50 and p99 at most this many times the bare consumer's.
const SLEEPING: f64 = 1.3;
/// Spinning p50 at most this much above the bare consumer's, ns.
const SPINNING_NS: f64 = 3000.0;

/// Whole measurements at most, should the control say that others had the CPUs.
const TRIES: usize = 4;
/// The control's ratio (or its inverse) from which a measurement says nothing.
const DISTURBED: f64 = 1.3;
/// The bare consumer's time from which it was not the consumer that took it, ns.
const DESCHEDULED_NS: f64 = 1e6;

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Both modes.
///
/// # Errors
/// A taker or the generator failed.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for (mode, spin, judged) in [("sleeping", "never", &["p50", "p99"][..]), ("spinning", "always", &["p50"][..])] {
        let mut tries = 1;
        let mut rounds = Rounds::run(bench, spin)?;
        while rounds.disturbed(judged) && tries < TRIES {
            tries += 1;
            rounds = Rounds::run(bench, spin)?;
        }
        rounds.report(mode, judged, tries, report);
    }
    Ok(())
}

/// Times by round.
#[derive(Default)]
struct Rounds {
    agent: Vec<Times>,
    bare: Vec<Times>,
    control: Vec<Times>,
}

impl Rounds {
    fn run(bench: &Bench, spin: &'static str) -> Result<Self> {
        let (rounds, count) = if bench.quick { (4, 500) } else { (10, 1000) };
        let task = Task { spin, count, warm: WARM, name: "fl-bench-gen".into() };
        let mut all = Self::default();
        for round in 0..rounds {
            // Each taker is first, second and third in turn.
            for turn in 0..3 {
                match (round + turn) % 3 {
                    0 => all.bare.push(one(bench, Taker::Bare, &task)?),
                    1 => all.agent.push(one(bench, Taker::Agent, &task)?),
                    _ => all.control.push(one(bench, Taker::Bare, &task)?),
                }
            }
        }
        Ok(all)
    }

    /// Whether others had the CPUs: chance alone moved a judged number far, or the bare consumer did not run at all.
    fn disturbed(&self, judged: &[&str]) -> bool {
        QUANTILES.iter().filter(|(word, _)| judged.contains(word)).any(|(_, q)| {
            let (control, bare) = (pooled(&self.control, None, *q), pooled(&self.bare, None, *q));
            bare > DESCHEDULED_NS || !(1.0 / DISTURBED..=DISTURBED).contains(&(control / bare))
        })
    }

    fn report(&self, mode: &str, judged: &[&str], tries: usize, report: &mut Report) {
        let disturbed = self.disturbed(judged);
        let advice = if disturbed { "; others had the CPUs: measure again on a quiet machine" } else { "" };
        let events: usize = self.agent.iter().map(|times| times.latencies.len()).sum();
        for (word, q) in QUANTILES {
            let [agent, bare, control] = [&self.agent, &self.bare, &self.control].map(|times| pooled(times, None, q));
            let ratios = |above: &[Times]| {
                bootstrap(self.bare.len(), |picked| {
                    pooled(above, Some(picked), q) / pooled(&self.bare, Some(picked), q)
                })
            };
            let note = format!("{events} hard events, {:+.0} ns, try {tries}{advice}", agent - bare);
            let measure = Measure::new(format!("reaction.{mode}.{word}"), agent, "ns").against(bare);
            let measure = measure.within(ratios(&self.agent)).note(note);
            report.add(match (mode, judged.contains(&word)) {
                ("sleeping", true) => measure.bar("<= 1.3x bare", !disturbed && agent <= SLEEPING * bare),
                (_, true) => measure.bar("<= bare + 3000 ns", !disturbed && agent <= bare + SPINNING_NS),
                _ => measure,
            });
            let control = Measure::new(format!("reaction.{mode}.{word}.control"), control, "ns").against(bare);
            report.add(control.within(ratios(&self.control)).note("bare against bare"));
        }
        let calls: u64 = self.agent.iter().map(|times| times.allocations).sum();
        let calls = Measure::new(format!("reaction.{mode}.allocations"), calls as f64, "calls");
        let clean = self.agent.iter().all(|times| times.allocations == 0);
        report.add(calls.bar("none", clean).note("on the deciding thread, during all of these events"));
    }
}

fn one(bench: &Bench, taker: Taker, task: &Task) -> Result<Times> {
    let running = consumer::start(taker, task, bench.places)?;
    let order = Order { count: (task.count + task.warm) as u64, rate: RATE, death: Death::Killed };
    generator::start(order, &task.name, bench.places.generator)?.finish()?;
    running.finish()
}

/// The quantile over all rounds, or over those picked.
fn pooled(rounds: &[Times], picked: Option<&[usize]>, q: f64) -> f64 {
    let mut all: Vec<f64> = match picked {
        Some(picked) => picked.iter().flat_map(|&at| rounds[at].latencies.iter().copied()).collect(),
        None => rounds.iter().flat_map(|times| times.latencies.iter().copied()).collect(),
    };
    quantile(&mut all, q)
}
