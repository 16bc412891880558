//! `task_hang`. In: what the kernel's hung-task check met. Out: a signal each time, so that the fault stays open while the
//! task hangs. The entity is the task's cgroup, which is what a verb could act upon; a kernel thread is itself.
#![forbid(unsafe_code)]

use faultline_common::event::TaskHang;

use super::Signals;
use crate::model::{
    entity::{Entity, Tree},
    event,
    evidence::Evidence,
    fault::{Kind, Severity, Signal},
};

/// The root of a hierarchy: kernel threads live there, and everything that nobody sorted.
const ROOT: u64 = 1;

/// One hung task.
pub fn observe(e: &TaskHang, out: &mut Signals) {
    let known = event::has(&e.header, const { TaskHang::bit("cgroup_id") }) && e.header.cgroup_id > ROOT;
    let entity = if known { Entity::Cgroup(Tree::Process, e.header.cgroup_id) } else { Entity::Process(e.pid) };
    out.push(Signal {
        kind: Kind::TaskHang,
        entity,
        severity: Severity::Error,
        confidence: 1000,
        evidence: Evidence::EMPTY.number("pid", e.pid.into()).comm("comm", e.comm),
        cause_ns: Some(e.header.ktime_ns),
        joins: false,
    });
}
