//! What became of the target. In: what was acted upon, and for how long it is to be looked at. Out: healthy, not, or nobody
//! can tell.
//!
//! Health is sampled, at most twenty times: at the end for the verdict, before that only for what can no longer turn into a
//! success, so that the next step of a plan need not wait for the end.

use std::{sync::Arc, time::Duration};

use super::act::{Hand, blocking};
use crate::{
    clock::monotonic_ns,
    heal::systemd::{Systemd, UnitHealth},
    model::action::Verb,
};

/// Bounds of the time between two looks.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// Looks until `verify_ns` has passed. `baseline`: the unit right after the act.
pub(super) async fn verify(
    systemd: &Systemd,
    hand: &Hand,
    baseline: Option<&UnitHealth>,
    verify_ns: u64,
) -> Option<bool> {
    let end_ns = monotonic_ns().saturating_add(verify_ns);
    let pause = Duration::from_nanos(verify_ns / 20).clamp(SHORTEST, LONGEST);
    loop {
        let seen = look(systemd, hand, baseline).await;
        let left = Duration::from_nanos(end_ns.saturating_sub(monotonic_ns()));
        if left.is_zero() || seen.is_hopeless {
            return seen.healthy;
        }
        tokio::time::sleep(pause.min(left)).await;
    }
}

/// One look.
struct Seen {
    healthy: Option<bool>,
    /// It cannot become healthy any more by waiting.
    is_hopeless: bool,
}

async fn look(systemd: &Systemd, hand: &Hand, baseline: Option<&UnitHealth>) -> Seen {
    match hand {
        Hand::Unit { name, verb } => match systemd.health(name).await {
            Ok(health) => judge(&health, *verb, baseline),
            Err(_) => Seen { healthy: None, is_hopeless: false },
        },
        Hand::Cgroup(prepared) => {
            let prepared = Arc::clone(prepared);
            let healthy = blocking(move || prepared.healthy()).await.ok().flatten();
            // What was killed takes its time to go: only the end tells.
            Seen { healthy, is_hopeless: false }
        }
    }
}

/// `restart-unit`: active with a main process and not restarted since; `stop-unit`: nothing runs.
fn judge(health: &UnitHealth, verb: Verb, baseline: Option<&UnitHealth>) -> Seen {
    if verb == Verb::StopUnit {
        let stopped = health.is_stopped();
        return Seen { healthy: Some(stopped), is_hopeless: !stopped };
    }
    // By itself, behind our back: it crashed again, even if it runs at this moment.
    let crashed = baseline.is_some_and(|first| health.n_restarts > first.n_restarts);
    if health.is_stopped() && health.result == "success" && !crashed {
        // Nobody crashed: somebody has stopped it meanwhile, which is not ours to judge or to undo.
        return Seen { healthy: None, is_hopeless: false };
    }
    let healthy = if crashed { Some(false) } else { health.is_running() };
    Seen { healthy, is_hopeless: crashed || health.is_stopped() }
}
