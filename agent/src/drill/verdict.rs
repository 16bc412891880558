//! What a drill expects and whether it came. In: the faults of a drill's window; out: passed, or the reason why not.
//!
//! A drill passes when the expected kind was reported on the drill's own target exactly once and nothing else was: a second
//! report of one harm is as wrong as none. Pure, so every rule is a test.

use serde_json::Value;

/// One fault as the agent first reported it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The agent's id; life-cycle lines repeat it.
    pub id: String,
    /// For example `process_crash`.
    pub kind: String,
    /// For example `executable`.
    pub entity_kind: String,
    /// Name of what is ill.
    pub entity_name: String,
    /// The evidence object.
    pub evidence: Value,
    /// CLOCK_MONOTONIC nanoseconds of the decision: the fault's event time plus the way from kernel to decision.
    pub detected_ns: Option<u64>,
}

impl Fault {
    /// Reads a `fault` line; `None` when a required key is missing.
    pub fn from_line(line: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let opened = line["opened_ns"].as_u64();
        let way = line["kernel_to_decision_ns"].as_u64().unwrap_or(0);
        Some(Self {
            id: text(&line["id"])?,
            kind: text(&line["kind"])?,
            entity_kind: text(&line["entity"]["kind"])?,
            entity_name: text(&line["entity"]["name"])?,
            evidence: line["evidence"].clone(),
            detected_ns: opened.map(|ns| ns.saturating_add(way)),
        })
    }

    /// For messages.
    pub fn describe(&self) -> String {
        format!("{} on {} {} (id {})", self.kind, self.entity_kind, self.entity_name, self.id)
    }
}

/// The one fault that a drill should cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The kind.
    pub kind: &'static str,
    /// The kind of the target.
    pub entity_kind: &'static str,
    /// The target's name, or the last component of it where it is a path.
    pub entity_name: String,
    /// Another proof that the fault is about the target: the victim's process id in the evidence.
    pub victim_pid: Option<i32>,
}

impl Expected {
    /// True when the fault is the expected one.
    pub fn is(&self, fault: &Fault) -> bool {
        self.kind == fault.kind && (self.names(fault) || self.proves(fault))
    }

    fn names(&self, fault: &Fault) -> bool {
        let last = fault.entity_name.rsplit('/').next().unwrap_or_default();
        let same = fault.entity_name == self.entity_name || last == self.entity_name;
        fault.entity_kind == self.entity_kind && same
    }

    fn proves(&self, fault: &Fault) -> bool {
        let victim = fault.evidence["victim_pid"].as_i64();
        self.victim_pid.is_some_and(|pid| victim == Some(i64::from(pid)))
    }
}

/// The judgement over one drill's window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The kind that was seen: the expected fault's if it came, else that of the first fault.
    pub kind: Option<String>,
    /// When the expected fault was detected.
    pub detected_ns: Option<u64>,
    /// Why the drill failed; `None` when it passed.
    pub reason: Option<String>,
}

/// Judges the faults (each id once) of a drill's window.
pub fn judge(expected: &Expected, faults: &[Fault], within_s: u64) -> Verdict {
    let (own, other): (Vec<&Fault>, Vec<&Fault>) = faults.iter().partition(|fault| expected.is(fault));
    let reason = match (own.len(), unexpected(&other)) {
        (0, None) => Some(format!("no {} was reported on {} within {within_s} s", expected.kind, expected.entity_name)),
        (0, Some(seen)) => Some(format!("no {} on {}, but {seen}", expected.kind, expected.entity_name)),
        (1, seen) => seen,
        (count, _) => Some(format!("{} was reported {count} times instead of once: {}", expected.kind, list(&own))),
    };
    Verdict {
        kind: own.first().or(other.first()).map(|fault| fault.kind.clone()),
        detected_ns: own.first().and_then(|fault| fault.detected_ns),
        reason,
    }
}

/// A sentence about faults that should not be there, if there are any.
pub fn unexpected(faults: &[&Fault]) -> Option<String> {
    (!faults.is_empty()).then(|| format!("unexpected: {}", list(faults)))
}

fn list(faults: &[&Fault]) -> String {
    faults.iter().map(|fault| fault.describe()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Expected, Fault, judge};

    fn expected() -> Expected {
        let entity_name = "faultline-drill-7".to_owned();
        Expected { kind: "oom_kill", entity_kind: "cgroup", entity_name, victim_pid: Some(99) }
    }

    fn fault(id: &str, kind: &str, name: &str, victim: i32) -> Fault {
        let line = json!({"id": id, "kind": kind, "entity": {"kind": "cgroup", "name": name},
            "evidence": {"victim_pid": victim}, "opened_ns": 1000, "kernel_to_decision_ns": 50});
        Fault::from_line(&line).expect("complete")
    }

    #[test]
    fn one_expected_fault_passes() {
        let verdict = judge(&expected(), &[fault("1", "oom_kill", "/a/faultline-drill-7", 5)], 30);
        assert_eq!(verdict.reason, None);
        assert_eq!(verdict.kind.as_deref(), Some("oom_kill"));
        assert_eq!(verdict.detected_ns, Some(1050));
    }

    #[test]
    fn the_victim_proves_the_fault_when_the_cgroup_has_no_name() {
        assert_eq!(judge(&expected(), &[fault("1", "oom_kill", "unknown", 99)], 30).reason, None);
    }

    #[test]
    fn none_twice_and_another_fail() {
        let good = fault("1", "oom_kill", "/faultline-drill-7", 99);
        let again = fault("2", "oom_kill", "/faultline-drill-7", 99);
        let other = fault("3", "process_crash", "fl-drill-oom", 99);
        let elsewhere = fault("4", "oom_kill", "/faultline-drill-70", 1);
        let reason = |faults: &[Fault]| judge(&expected(), faults, 30).reason.unwrap_or_default();
        assert!(reason(&[]).starts_with("no oom_kill was reported"));
        assert!(reason(&[good.clone(), again]).contains("2 times"));
        assert!(reason(&[good, other]).starts_with("unexpected: process_crash"));
        assert!(reason(&[elsewhere]).contains("but unexpected: oom_kill on cgroup /faultline-drill-70"));
    }

    #[test]
    fn a_fault_line_without_its_keys_is_refused() {
        assert_eq!(Fault::from_line(&json!({"id": "1", "kind": "x"})), None);
    }
}
