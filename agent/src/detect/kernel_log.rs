//! `kernel_log`. In: what the kernel's log told, already judged line by line. Out: a signal per rule and subject; the end of
//! a report adds what its further lines told.
#![forbid(unsafe_code)]

use super::Signals;
use crate::{
    kernel_log::rules::{self, Rule},
    model::{
        entity::Entity,
        evidence::Evidence,
        fault::{Kind, Severity, Signal},
        input::KernelReport,
    },
};

/// One report or fact. What is only worth knowing (a link that comes up) is no fault, and what this build has no rule for
/// comes from the recording of another one.
pub fn observe(report: &KernelReport, out: &mut Signals) {
    let Some((number, rule)) = rules::by_name(&report.rule) else { return };
    if report.severity == Severity::Info {
        return;
    }
    out.push(Signal {
        kind: Kind::KernelLog,
        entity: Entity::Kernel { rule: number, subject: subject(&report.subject) },
        severity: report.severity,
        confidence: 900,
        evidence: evidence(report, rule),
        cause_ns: None,
        joins: report.ended,
    });
}

fn evidence(report: &KernelReport, rule: &Rule) -> Evidence {
    let evidence = Evidence::EMPTY.word("rule", rule.name).word("what", rule.kind).number("lines", report.lines.into());
    let evidence = match rules::by_name(&report.became).filter(|(_, better)| better.name != rule.name) {
        Some((_, better)) => evidence.word("became", better.name),
        None => evidence,
    };
    let evidence = match rule.subclass {
        Some(subclass) => evidence.word("of", subclass.name()),
        None => evidence,
    };
    let evidence = match report.number {
        Some(number) => evidence.number("number", number.into()),
        None => evidence,
    };
    if report.panicked { evidence.flag("panicked", true) } else { evidence }
}

/// The first bytes of a name: devices and tasks have no more.
fn subject(name: &str) -> [u8; 16] {
    let mut subject = [0; 16];
    let end = (0..=name.len().min(16)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    subject[..end].copy_from_slice(&name.as_bytes()[..end]);
    subject
}
