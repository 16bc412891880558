//! Health of a sensor as a value, with a pure classifier: what resolved and what the kernel said in, one of
//! four states out. `doctor`, the `health` lines and the recording header print it.

use faultline_common::offsets::{ABSENT, Offsets};

use super::Rung;

/// How a sensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Attached, all fields known.
    Ok {
        /// The rung in use.
        hook: &'static str,
    },
    /// Attached, but some fields are not told by this kernel.
    Degraded {
        /// The rung in use.
        hook: &'static str,
        /// Names of the missing fields.
        missing: Vec<&'static str>,
    },
    /// This kernel offers no rung, or the sensor is switched off.
    Unsupported {
        /// Why, and what would help.
        why: String,
    },
    /// A rung should work but did not.
    Broken {
        /// What failed.
        error: String,
        /// What the verifier said, if it was asked.
        verifier_log: Option<String>,
    },
}

impl Health {
    /// The word as printed in `health.state`.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Ok { .. } => "ok",
            Self::Degraded { .. } => "degraded",
            Self::Unsupported { .. } => "unsupported",
            Self::Broken { .. } => "broken",
        }
    }

    /// The rung in use.
    pub fn hook(&self) -> Option<&'static str> {
        match self {
            Self::Ok { hook } | Self::Degraded { hook, .. } => Some(hook),
            _ => None,
        }
    }

    /// Names of the missing fields.
    pub fn missing(&self) -> &[&'static str] {
        match self {
            Self::Degraded { missing, .. } => missing,
            _ => &[],
        }
    }

    /// What is wrong, with the verifier's words where there are any.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Unsupported { why } => Some(why.clone()),
            Self::Broken { error, verifier_log: Some(log) } if !log.is_empty() => {
                Some(format!("{error}\n{}", tail(log)))
            }
            Self::Broken { error, .. } => Some(error.clone()),
            _ => None,
        }
    }

    /// Whether the sensor feels anything.
    pub fn is_attached(&self) -> bool {
        self.hook().is_some()
    }
}

/// The last lines of a verifier log: its verdict stands at the end, after hundreds of lines of the way there.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.trim_end().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// The needs of a rung that this kernel does not meet.
pub fn unmet(rung: &Rung, offsets: &Offsets) -> Vec<&'static str> {
    let absent = |name: &&str| offsets.get(name).unwrap_or(ABSENT) == ABSENT;
    rung.needs.iter().filter(|group| group.iter().all(absent)).map(|group| group[0]).collect()
}

/// Health of an attached rung.
pub fn attached(rung: &Rung, offsets: &Offsets) -> Health {
    let mut missing: Vec<&'static str> = rung.never.to_vec();
    for (field, names) in rung.wants {
        let known = names.iter().any(|n| offsets.get(n).unwrap_or(ABSENT) != ABSENT);
        if !known && !missing.contains(field) {
            missing.push(field);
        }
    }
    // A kernel that passes only the victim's pid tells nothing that needs the task.
    if rung.needs == [&["arg_victim_is_task"] as &[&str]] && offsets.arg_victim_is_task == 0 {
        missing = rung.wants.iter().map(|w| w.0).collect();
        missing.dedup();
    }
    let hook = rung.kind.name();
    if missing.is_empty() { Health::Ok { hook } } else { Health::Degraded { hook, missing } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::SENSORS;

    fn complete() -> Offsets {
        let mut offsets = Offsets::NONE;
        for name in Offsets::NAMES {
            if let Some(place) = offsets.get_mut(name) {
                *place = 1;
            }
        }
        offsets
    }

    #[test]
    fn complete_offsets_meet_every_need() {
        for rung in SENSORS.iter().flat_map(|s| s.rungs) {
            assert!(unmet(rung, &complete()).is_empty());
            assert!(unmet(rung, &Offsets::NONE).len() == rung.needs.len());
        }
    }

    #[test]
    fn a_missing_field_degrades_and_is_named() {
        let oom = SENSORS[1];
        let offsets = Offsets { mm_anon: ABSENT, ..complete() };
        assert_eq!(attached(&oom.rungs[0], &complete()), Health::Ok { hook: "tp_btf" });
        assert_eq!(attached(&oom.rungs[0], &offsets), Health::Degraded { hook: "tp_btf", missing: vec!["anon_kb"] });
    }

    #[test]
    fn a_pid_only_mark_victim_misses_all_that_needs_the_task() {
        let offsets = Offsets { arg_victim_is_task: 0, ..complete() };
        let health = attached(&SENSORS[1].rungs[0], &offsets);
        assert!(health.missing().contains(&"victim_comm") && health.missing().contains(&"cgroup_id"));
    }

    #[test]
    fn either_way_to_know_the_group_is_dead_is_enough() {
        let exit = SENSORS[3];
        let only_flag = Offsets { signal_live: ABSENT, ..complete() };
        assert!(unmet(&exit.rungs[0], &only_flag).is_empty());
        let neither = Offsets { arg_group_dead: ABSENT, ..only_flag };
        assert_eq!(unmet(&exit.rungs[0], &neither), ["signal_live"]);
    }
}
