//! The time from a fault to health, and its parts. In: the moment of the injection, the agent's lines, and what the prober
//! saw. Out: an [`Mttr`].

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use serde_json::Value;

use crate::agent::{Agent, PATIENCE, after};

/// How often the prober looks.
const PROBE: Duration = Duration::from_millis(10);

/// From the injection to health, ns. Between the end of the act and health lies what the service itself needs to start, and
/// up to [`PROBE`] until the prober looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mttr {
    /// From the injection to the decision. Of it, [`Self::event_ns`] is no work of the agent's.
    detect_ns: u64,
    /// From the injection to the kernel's event: the signal's delivery and the exit; in an OOM kill also all the time in which
    /// the service eats up its memory.
    event_ns: u64,
    /// From the decision until the hand begins: the way to it, its brakes, the journal.
    decide_ns: u64,
    /// The act: until systemd says that the job is done.
    act_ns: u64,
    /// From the end of the act until the agent says `recovered`; the policy sets its least.
    verify_ns: u64,
    /// From the injection until the prober sees health.
    pub(super) healthy_ns: u64,
}

impl std::fmt::Display for Mttr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        let (total, detect, event) = (ms(self.healthy_ns), ms(self.detect_ns), ms(self.event_ns));
        let (decide, act, verify) = (ms(self.decide_ns), ms(self.act_ns), ms(self.verify_ns));
        write!(
            f,
            "MTTR {total:.1} ms (detect {detect:.2}, of which {event:.2} until the kernel's event; decide {decide:.2}, \
            act {act:.1}; verified in {verify:.0} ms)"
        )
    }
}

/// The one in the middle by the whole time, itself and not a mean of parts.
pub(super) fn median(mut times: Vec<Mttr>) -> Result<Mttr> {
    times.sort_by_key(|time| time.healthy_ns);
    times.get(times.len() / 2).copied().context("no times")
}

/// The times of an action on a unit that recovered it.
pub(super) fn healed(agent: &mut Agent, unit: &str, injected: u64, healthy: u64) -> Result<Mttr> {
    let recovered = |line: &Value| line["type"] == "action" && line["outcome"] == "recovered" && is_about(line, unit);
    let action = agent.wait_for(&format!("recovery of {unit}"), recovered)?;
    let verified = monotonic_ns();
    let fault = agent.wait_for("its fault", |line| line["type"] == "fault" && line["id"] == action["fault"])?;
    let opened = number(&fault, "opened_ns")?;
    let decided = opened + number(&fault, "kernel_to_decision_ns")?;
    let (started, finished) = (number(&action, "started_ns")?, number(&action, "finished_ns")?);
    ensure!(opened > injected, "{unit}: an older fault");
    Ok(Mttr {
        detect_ns: decided - injected,
        event_ns: opened - injected,
        decide_ns: started.saturating_sub(decided),
        act_ns: finished - started,
        verify_ns: verified.saturating_sub(finished),
        healthy_ns: healthy - injected,
    })
}

pub(super) fn number(line: &Value, key: &str) -> Result<u64> {
    line[key].as_u64().with_context(|| format!("no number {key} in {line}"))
}

pub(super) fn is_about(line: &Value, name: &str) -> bool {
    line["target"]["name"].as_str().is_some_and(|target| target.ends_with(name))
}

/// The prober: looks every 10 ms until it sees what is wanted, and says when that was.
pub(super) fn probe<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<(T, u64)> {
    let deadline = after(PATIENCE);
    loop {
        if let Some(seen) = look() {
            return Ok((seen, monotonic_ns()));
        }
        ensure!(monotonic_ns() < deadline, "never seen: {what}");
        nix::poll::poll(&mut [], nix::poll::PollTimeout::try_from(PROBE)?).context("poll")?;
    }
}

/// What the agent said, for an error.
pub(super) fn story(agent: &mut Agent) -> String {
    let _ = agent.watch(Duration::from_millis(100));
    let lines: Vec<&str> = agent.lines.iter().map(|line| line.text.as_str()).collect();
    format!("{}\n{}", lines.join("\n"), agent.said())
}
