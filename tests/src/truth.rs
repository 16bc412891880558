//! Truth: what an injector knows that it did. In: a truth and the lines of an agent. Out: agreement, or the first
//! contradiction.
//!
//! The truth is written by the injector and never by the agent, so a detector that is wrong in the same way in the
//! live run and in the replay is still caught.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::Line;

/// Everything that was done while an agent watched; nothing else may be reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Which injector, in one word.
    pub injector: String,
    /// `uname -r` where it ran.
    pub kernel: String,
    /// One for each fault, in the order of the injections.
    pub faults: Vec<Expected>,
}

/// One fault that must be reported exactly once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// `fault.kind`.
    pub kind: String,
    /// `fault.entity.kind`.
    pub entity_kind: String,
    /// `fault.entity.name`.
    pub entity_name: String,
    /// CLOCK_MONOTONIC nanoseconds before which it cannot have opened.
    pub earliest_ns: u64,
    /// And after which neither.
    pub latest_ns: u64,
    /// What its evidence must say, among other things.
    pub evidence: Map<String, Value>,
    /// What an `event` line of the live run must say, among other things.
    pub event: Map<String, Value>,
}

impl Expected {
    /// Whether a `fault` line is about this fault.
    pub fn is(&self, line: &Value) -> bool {
        line["type"] == "fault"
            && line["kind"] == *self.kind
            && line["entity"]["kind"] == *self.entity_kind
            && line["entity"]["name"] == *self.entity_name
    }

    /// For messages.
    pub fn describe(&self) -> String {
        format!("{} of {} {:?}", self.kind, self.entity_kind, self.entity_name)
    }

    fn judge(&self, life: &[&Value]) -> Result<()> {
        let first = life.first().context("a fault without a line")?;
        ensure!(first["state"] == "open", "its first line is not open but {}", first["state"]);
        let opened = first["opened_ns"].as_u64().context("no opened_ns")?;
        ensure!(
            (self.earliest_ns..=self.latest_ns).contains(&opened),
            "it opened at {opened}, not from {} to {}",
            self.earliest_ns,
            self.latest_ns
        );
        contains(&first["evidence"], &self.evidence).context("its evidence")?;
        for pair in life.windows(2) {
            let (from, to) = (pair[0]["state"].as_str(), pair[1]["state"].as_str());
            ensure!(from != Some("closed"), "it goes on after it was closed");
            ensure!(to != Some("closed") || from == Some("clearing"), "it closed without clearing");
            ensure!(pair[1]["opened_ns"] == first["opened_ns"], "it changed the time of its opening");
        }
        Ok(())
    }

    /// The `event` line of the live run with the sensor's own fields.
    ///
    /// # Errors
    /// There is none.
    pub fn judge_event(&self, lines: &[Line]) -> Result<()> {
        let events: Vec<_> = lines.iter().filter(|line| line.kind() == "event").collect();
        if events.iter().any(|line| contains(&line.value, &self.event).is_ok()) {
            return Ok(());
        }
        let same: Vec<_> = events.iter().filter(|l| l.value["sensor"] == self.event["sensor"]).take(5).collect();
        let texts: Vec<_> = same.iter().map(|line| line.text.as_str()).collect();
        bail!("{}: no event with {:?}; events of the sensor:\n{}", self.describe(), self.event, texts.join("\n"))
    }
}

/// Whether an object says all that is wanted.
fn contains(object: &Value, wanted: &Map<String, Value>) -> Result<()> {
    for (key, value) in wanted {
        ensure!(object[key] == *value, "{key} is {}, not {value}", object[key]);
    }
    Ok(())
}

impl Truth {
    /// Holds the `fault` and `loss` lines against what was done: each fault once, none too many, nothing lost.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn judge(&self, lines: &[Line]) -> Result<()> {
        if let Some(loss) = lines.iter().find(|line| line.kind() == "loss") {
            bail!("something was lost: {}", loss.text);
        }
        let mut lives: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for line in lines.iter().filter(|line| line.kind() == "fault") {
            lives.entry(line.value["id"].as_str().unwrap_or_default()).or_default().push(&line.value);
        }
        for life in lives.values() {
            ensure!(self.faults.iter().any(|f| f.is(life[0])), "nobody caused {}", life[0]);
        }
        for fault in &self.faults {
            let about: Vec<_> = lives.values().filter(|life| fault.is(life[0])).collect();
            ensure!(about.len() == 1, "{} was reported {} times, not once", fault.describe(), about.len());
            fault.judge(about[0]).with_context(|| fault.describe())?;
        }
        Ok(())
    }
}
