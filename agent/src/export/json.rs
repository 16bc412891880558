//! JSON lines: one object a line, keys in a fixed order. The contract is `tests/schema/lines.json`.
//!
//! `pid`, `comm` and `cgroup` of an event are null where `current` is not the owner (TCP, completions); a
//! field that this kernel does not tell is null, never a guess.

use faultline_common::{
    counter::{FILTERED, LIMITED, RING_FULL, SEEN, SUBMITTED},
    event::{BlockIo, Header, OomKill, ProcessExit, TaskHang},
    exit,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Exporter, HealthLine, Summary, flows, sensors};
use crate::{
    clock,
    model::{
        action::{Action, Outcome, Reason},
        entity::{Entity, Tree, comm_text},
        event::{Event, errno, has, latency_ns, op_name},
        fault::{Class, Fault, Kind, Severity, State},
        output::Loss,
    },
    sensor,
};

fn line(exporter: &Exporter, kind: &str, at_ns: u64) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("type".into(), kind.into());
    map.insert("time".into(), clock::rfc3339(&exporter.anchor, at_ns).to_string().into());
    map
}

fn push(map: Map<String, Value>, out: &mut String) {
    out.push_str(&Value::Object(map).to_string());
    out.push('\n');
}

/// A value that is null when the kernel did not tell it.
fn told<T: Serialize>(header: &Header, bit: u64, value: T) -> Value {
    if has(header, bit) { json!(value) } else { Value::Null }
}

/// An `event` line.
pub fn event(exporter: &Exporter, event: &Event, out: &mut String) {
    let header = event.header();
    let mut map = line(exporter, "event", header.ktime_ns);
    map.insert("sensor".into(), sensor::name(event.sensor()).into());
    map.insert("ktime_ns".into(), header.ktime_ns.into());
    match event {
        Event::ProcessExit(e) => process_exit(exporter, e, &mut map),
        Event::OomKill(e) => oom_kill(exporter, e, &mut map),
        Event::BlockIo(e) => block_io(exporter, e, &mut map),
        Event::TaskHang(e) => task_hang(exporter, e, &mut map),
        Event::TcpRetransmit(_) | Event::TcpConnect(_) | Event::TcpReset(_) | Event::PacketDrop(_) => {
            // In softirq nobody runs on the packet's behalf; the socket knows whose it is.
            owner(&mut map, Value::Null, Value::Null, json!(exporter.names.cgroup(Tree::Process, header.cgroup_id)));
        }
    }
    match event {
        Event::TcpRetransmit(e) => flows::retransmit(e, &mut map),
        Event::TcpConnect(e) => flows::connect(e, &mut map),
        Event::TcpReset(e) => flows::reset(e, &mut map),
        Event::PacketDrop(e) => flows::drop(exporter, e, &mut map),
        Event::ProcessExit(_) | Event::OomKill(_) | Event::BlockIo(_) | Event::TaskHang(_) => {}
    }
    push(map, out);
}

fn owner(map: &mut Map<String, Value>, pid: Value, comm: Value, cgroup: Value) {
    map.insert("pid".into(), pid);
    map.insert("comm".into(), comm);
    map.insert("cgroup".into(), cgroup);
}

fn process_exit(exporter: &Exporter, e: &ProcessExit, map: &mut Map<String, Value>) {
    let cgroup = exporter.names.cgroup(Tree::Process, e.header.cgroup_id);
    owner(map, e.pid.into(), comm_text(&e.comm).into(), json!(cgroup));
    map.insert("signal".into(), exit::signal(e.exit_code).into());
    map.insert("core".into(), exit::core(e.exit_code).into());
    map.insert("exit_code".into(), exit::status(e.exit_code).into());
    map.insert("ppid".into(), told(&e.header, const { ProcessExit::bit("ppid") }, e.ppid));
    map.insert("uid".into(), told(&e.header, const { ProcessExit::bit("uid") }, e.uid));
}

fn oom_kill(exporter: &Exporter, e: &OomKill, map: &mut Map<String, Value>) {
    let cgroup = exporter.names.cgroup(Tree::Memory, e.header.cgroup_id);
    owner(map, e.trigger_pid.into(), comm_text(&e.trigger_comm).into(), json!(cgroup));
    map.insert("victim_pid".into(), told(&e.header, const { OomKill::bit("victim_pid") }, e.victim_pid));
    map.insert("victim_comm".into(), told(&e.header, const { OomKill::bit("victim_comm") }, comm_text(&e.victim_comm)));
    for (name, bit, kb) in [
        ("anon_kb", const { OomKill::bit("anon_kb") }, e.anon_kb),
        ("file_kb", const { OomKill::bit("file_kb") }, e.file_kb),
        ("shmem_kb", const { OomKill::bit("shmem_kb") }, e.shmem_kb),
        ("total_vm_kb", const { OomKill::bit("total_vm_kb") }, e.total_vm_kb),
    ] {
        map.insert(name.into(), told(&e.header, bit, kb));
    }
}

fn block_io(exporter: &Exporter, e: &BlockIo, map: &mut Map<String, Value>) {
    owner(map, Value::Null, Value::Null, Value::Null);
    map.insert("device".into(), exporter.names.device(e.dev).into());
    map.insert("op".into(), op_name(e.op).into());
    map.insert("latency_ns".into(), json!(latency_ns(e)));
    map.insert("error".into(), errno(e).into());
    map.insert("sector".into(), told(&e.header, const { BlockIo::bit("sector") }, e.sector));
    map.insert("bytes".into(), e.bytes.into());
}

fn task_hang(exporter: &Exporter, e: &TaskHang, map: &mut Map<String, Value>) {
    let cgroup = exporter.names.cgroup(Tree::Process, e.header.cgroup_id);
    owner(map, e.pid.into(), comm_text(&e.comm).into(), json!(cgroup));
    map.insert("tgid".into(), told(&e.header, const { TaskHang::bit("tgid") }, e.tgid));
    map.insert("uid".into(), told(&e.header, const { TaskHang::bit("uid") }, e.uid));
}

#[derive(Serialize)]
struct FaultLine<'a> {
    r#type: &'a str,
    time: String,
    id: String,
    kind: Kind,
    class: Class,
    severity: Severity,
    priority: u8,
    confidence: f64,
    state: State,
    entity: EntityLine<'a>,
    evidence: &'a crate::model::evidence::Evidence,
    opened_ns: u64,
    kernel_to_decision_ns: Option<u64>,
}

#[derive(Serialize)]
struct EntityLine<'a> {
    kind: &'a str,
    name: String,
    /// What a cgroup is to people, where that is more than its path: a container or a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<Value>,
}

fn workload(exporter: &Exporter, entity: &Entity) -> Option<Value> {
    let known = exporter.names.workload(entity)?;
    let container = known.container.or(known.monitor);
    Some(json!({
        "name": known.short().to_string(),
        "pod": known.pod.map(|pod| pod.uid().to_string()),
        "container": container.map(|container| container.id),
        "unit": known.unit,
    }))
}

/// Delay from the kernel event to the decision; null for decisions on readings and ticks.
pub fn delay_ns(fault: &Fault, decided_ns: Option<u64>) -> Option<u64> {
    Some(decided_ns?.saturating_sub(fault.cause_ns?))
}

/// A `fault` line.
pub fn fault(exporter: &Exporter, fault: &Fault, decided_ns: Option<u64>, out: &mut String) {
    let line = FaultLine {
        r#type: "fault",
        time: clock::rfc3339(&exporter.anchor, fault.at_ns).to_string(),
        id: format!("f{}", fault.id),
        kind: fault.kind,
        class: fault.class,
        severity: fault.severity,
        priority: fault.priority,
        confidence: f64::from(fault.confidence) / 1000.0,
        state: fault.state,
        entity: EntityLine {
            kind: fault.entity.kind(),
            name: exporter.names.entity(&fault.entity),
            workload: workload(exporter, &fault.entity),
        },
        evidence: &fault.evidence,
        opened_ns: fault.opened_ns,
        kernel_to_decision_ns: delay_ns(fault, decided_ns),
    };
    // Serialising plain structs to a string cannot fail; if it ever did, the line says so instead of vanishing.
    out.push_str(
        &serde_json::to_string(&line)
            .unwrap_or_else(|e| json!({ "type": "error", "error": e.to_string() }).to_string()),
    );
    out.push('\n');
}

/// An `action` line.
pub fn action(exporter: &Exporter, action: &Action, out: &mut String) {
    let mut map = line(exporter, "action", action.at_ns);
    map.insert("id".into(), format!("a{}", action.id).into());
    map.insert("fault".into(), format!("f{}", action.fault).into());
    map.insert("verb".into(), action.verb.name().into());
    let name = exporter.names.entity(&action.target);
    map.insert("target".into(), json!({ "kind": action.target.kind(), "name": name }));
    map.insert("decision".into(), action.decision.name().into());
    map.insert("reason".into(), json!(action.reason.map(Reason::name)));
    map.insert("started_ns".into(), json!(action.started_ns));
    map.insert("finished_ns".into(), json!(action.finished_ns));
    map.insert("outcome".into(), json!(action.outcome.map(Outcome::name)));
    push(map, out);
}

/// A `loss` line.
pub fn loss(exporter: &Exporter, loss: &Loss, out: &mut String) {
    let mut map = line(exporter, "loss", loss.to_ns);
    map.insert("sensor".into(), json!(loss.sensor.map(sensor::name)));
    map.insert("count".into(), loss.count.into());
    map.insert("reason".into(), loss.reason.name().into());
    map.insert("from_ns".into(), loss.from_ns.into());
    map.insert("to_ns".into(), loss.to_ns.into());
    push(map, out);
}

/// A `health` line.
pub fn health(exporter: &Exporter, health: &HealthLine<'_>, at_ns: u64, out: &mut String) {
    let mut map = line(exporter, "health", at_ns);
    map.insert("sensor".into(), health.sensor.into());
    map.insert("state".into(), health.state.into());
    map.insert("hook".into(), json!(health.hook));
    map.insert("missing".into(), json!(health.missing));
    map.insert("error".into(), json!(health.error));
    push(map, out);
}

/// The `summary` line.
pub fn summary(exporter: &Exporter, summary: &Summary, out: &mut String) {
    let mut map = line(exporter, "summary", summary.at_ns);
    let mut all = Map::new();
    for number in sensors() {
        all.insert(sensor::SENSORS[number].name.into(), sensor_summary(summary, number));
    }
    map.insert("sensors".into(), Value::Object(all));
    map.insert("faults".into(), summary.faults.into());
    map.insert("alive".into(), summary.alive.into());
    map.insert("unrecognised".into(), summary.tally.unrecognised.into());
    map.insert("lost_lines".into(), summary.lost_lines.into());
    push(map, out);
}

fn sensor_summary(summary: &Summary, number: usize) -> Value {
    let counter = |which: usize| summary.counters.map(|c| c.sums[number][which]);
    let missed = summary.counters.and_then(|c| c.missed[number]);
    json!({
        "seen": counter(SEEN),
        "submitted": counter(SUBMITTED),
        "filtered": counter(FILTERED),
        "limited": counter(LIMITED),
        "ring_full": counter(RING_FULL),
        "missed": missed.map_or(json!("unknown"), |n| json!(n)),
        "decoded": summary.tally.decoded[number],
        "malformed": summary.tally.malformed[number],
        "in_flight": summary.in_flight(number),
    })
}
