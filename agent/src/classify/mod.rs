//! Classify: a signal in, its class, severity and priority out, and its life as a fault (`life_cycle`).
//!
//! Rules, not models: each fault of this build has one obvious class, and the reader of an alarm must be able
//! to follow the judgement.
#![forbid(unsafe_code)]

pub mod life_cycle;

use crate::{
    kernel_log::rules,
    model::{
        entity::Entity,
        evidence::Value,
        fault::{Class, Kind, Severity, Signal},
    },
};

/// The class of a signal.
pub fn class(signal: &Signal) -> Class {
    match signal.kind {
        Kind::ProcessCrash | Kind::CrashLoop => Class::ServiceUnavailability,
        Kind::OomKill => Class::ResourceExhaustion,
        Kind::DiskLatency => Class::PerformanceDegradation,
        // A protection (checksum) error means wrong data; any other I/O error means failing hardware.
        Kind::DiskError if is_set(signal, "protection") => Class::DataCorruption,
        Kind::DiskError => Class::NodeFailure,
        Kind::RetransmitStorm => Class::NetworkPartition,
        Kind::TaskHang | Kind::ConnectionReset => Class::ServiceUnavailability,
        // The peer's node answers that nobody listens; otherwise nobody answers at all.
        Kind::ConnectFailure if is_set(signal, "refused") => Class::ServiceUnavailability,
        Kind::ConnectFailure => Class::NetworkPartition,
        Kind::BadChecksum => Class::DataCorruption,
        Kind::KernelLog => match signal.entity {
            Entity::Kernel { rule, .. } => rules::at(rule).map_or(Class::NodeFailure, |rule| rule.class),
            _ => Class::NodeFailure,
        },
    }
}

fn is_set(signal: &Signal, name: &str) -> bool {
    signal.evidence.facts().iter().any(|fact| fact.0 == name && fact.1 == Value::Flag(true))
}

/// Urgency 0..=100: severity first, then what hangs on the entity, then how often it was seen.
pub fn priority(severity: Severity, entity: &Entity, signals: u64) -> u8 {
    let base = match severity {
        Severity::Info => 10,
        Severity::Warning => 35,
        Severity::Error => 60,
        Severity::Critical => 80,
    };
    let reach = match entity {
        Entity::Device(_) | Entity::Kernel { .. } => 10,
        Entity::Unit(_) | Entity::Cgroup(..) => 8,
        Entity::Peer { .. } => 5,
        Entity::Executable(_) | Entity::Process(_) => 0,
    };
    let repeats = signals.saturating_sub(1).min(10) as u8;
    base + reach + repeats
}

/// Confidence after the loss of events in the last seconds: some of what would refute it may be missing.
pub fn confidence(own: u16, lossy: bool) -> u16 {
    if lossy { own / 5 * 4 } else { own }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_orders_by_severity_before_anything_else() {
        let most_repeated_error = priority(Severity::Error, &Entity::Device(1), u64::MAX);
        assert!(most_repeated_error <= priority(Severity::Critical, &Entity::Executable([0; 16]), 1));
        assert!(priority(Severity::Critical, &Entity::Device(1), u64::MAX) <= 100);
    }
}
