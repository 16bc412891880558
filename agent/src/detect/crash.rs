//! `process_crash` and `crash_loop`. In: abnormal exits. Out: signals.
//!
//! At once, a crash: a signal whose default action dumps core, or SIGKILL or a non-zero status of a watched
//! unit's main process. Everything else may only add up to a loop: the same unit or executable dying again
//! and again, each time after it was started anew. Parallel deaths (ten workers killed at once) are no loop,
//! stops that were asked for never count, nor does what an action of the agent's own ended, and a plain non-zero status counts only for a unit's main process
//! or an executable named in `watch.executables`: scripts live on non-zero statuses.
#![forbid(unsafe_code)]

use faultline_common::{
    event::{COMM_LEN, ProcessExit},
    exit,
};

use super::{Context, Detector, Signals, recent::Recent};
use crate::{
    config::{Burst, Config},
    model::{
        bounded::BoundedMap,
        entity::Entity,
        event::Event,
        evidence::Evidence,
        fault::{Kind, Severity, Signal},
        input::Fact,
        snapshot::{Loader, Saver, SnapshotError},
    },
};

const SIGKILL: u32 = 9;
/// Units and executables followed at the same time.
const FOLLOWED: usize = 4096;

/// The detector.
#[derive(Debug)]
pub struct Crash {
    rule: Burst,
    watched: Vec<[u8; COMM_LEN]>,
    followed: BoundedMap<Entity, Recent>,
}

impl Crash {
    /// From the rule for loops and the watched executables.
    pub fn new(config: &Config) -> Self {
        Self {
            rule: config.detect.crash_loop,
            watched: config.watch.executables.clone(),
            followed: BoundedMap::with_capacity(FOLLOWED),
        }
    }

    fn death(&mut self, entity: Entity, e: &ProcessExit, out: &mut Signals) {
        let (deaths, _) = self.followed.entry_or_insert_with(entity, Recent::default);
        if deaths.last().is_some_and(|last| e.start_ns < last) {
            // Already running when the last one died: not a restart.
            return;
        }
        deaths.push(e.header.ktime_ns);
        let Some(span_ns) = deaths.span_ns(self.rule.count).filter(|span_ns| *span_ns <= self.rule.window_ns) else {
            return;
        };
        out.push(Signal {
            kind: Kind::CrashLoop,
            entity,
            severity: Severity::Error,
            confidence: 1000,
            evidence: evidence(e)
                .number("deaths", self.rule.count as u64)
                .number("span_ms", span_ns / 1_000_000)
                .number("last_lifetime_ms", e.header.ktime_ns.saturating_sub(e.start_ns) / 1_000_000),
            cause_ns: Some(e.header.ktime_ns),
            joins: false,
        });
    }

    /// Takes the last death of an entity back: it was an OOM victim's, as is known only now.
    pub fn forgive(&mut self, entity: &Entity, died_ns: u64) {
        if let Some(deaths) = self.followed.get_mut(entity)
            && deaths.last() == Some(died_ns)
        {
            deaths.pop();
        }
    }
}

fn evidence(e: &ProcessExit) -> Evidence {
    Evidence::EMPTY
        .number("pid", e.pid.into())
        .comm("comm", e.comm)
        .number("signal", exit::signal(e.exit_code).into())
        .number("status", exit::status(e.exit_code).into())
        .flag("core", exit::core(e.exit_code))
}

impl Detector for Crash {
    fn observe(&mut self, event: &Event, context: &mut Context, out: &mut Signals) {
        let Event::ProcessExit(e) = event else { return };
        if let Some(entity) = context.victims.take(e.pid, e.header.ktime_ns) {
            out.push(oom_victim_died(entity, e));
            return;
        }
        let signal = exit::signal(e.exit_code);
        let unit = context.units.main_process_of(e);
        let entity = unit.map_or(Entity::Executable(e.comm), |u| Entity::Unit(u.key));
        if signal == SIGKILL {
            context.victims.killed(e.pid, entity, e.header.ktime_ns);
        }
        if context.own_doing || exit::was_asked_to_stop(e.exit_code) {
            return;
        }
        let watched_main = unit.is_some_and(|u| u.watched);
        if exit::dumps_core(signal) || (watched_main && (signal == SIGKILL || signal == 0)) {
            out.push(Signal {
                kind: Kind::ProcessCrash,
                entity,
                severity: if unit.is_some() { Severity::Error } else { Severity::Warning },
                confidence: 1000,
                evidence: evidence(e),
                cause_ns: Some(e.header.ktime_ns),
                joins: false,
            });
        }
        if signal != 0 || unit.is_some() || self.watched.contains(&e.comm) {
            self.death(entity, e, out);
        }
    }

    fn fact(&mut self, _: &Fact, _: &mut Context, _: &mut Signals) {}

    fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.followed);
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        self.followed = from.take()?;
        Ok(())
    }
}

/// The victim's exit, joined to the `oom_kill` that caused it.
fn oom_victim_died(entity: Entity, e: &ProcessExit) -> Signal {
    Signal {
        kind: Kind::OomKill,
        entity,
        severity: Severity::Error,
        confidence: 1000,
        evidence: Evidence::EMPTY
            .flag("victim_exited", true)
            .number("victim_pid", e.pid.into())
            .comm("victim_comm", e.comm),
        cause_ns: None,
        joins: true,
    }
}
