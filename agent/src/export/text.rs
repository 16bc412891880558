//! Lines for people: one fact a line, the fault's words first, aligned. Colour only where a terminal wants it.

use std::fmt::Write;

use faultline_common::{
    counter::{FILTERED, LIMITED, RING_FULL, SEEN, SUBMITTED},
    exit,
};

use super::{Exporter, HealthLine, Summary, flows, json::delay_ns, sensors};
use crate::{
    clock,
    model::{
        action::{Action, Decision, Outcome},
        entity::comm_text,
        event::{Event, errno, latency_ns, op_name},
        evidence::{Evidence, Value},
        fault::{Fault, Severity, State},
        output::Loss,
    },
    sensor,
};

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD_RED: &str = "\x1b[1;31m";

/// Wraps a word in a colour, or not.
fn paint(word: &str, code: &str, colour: bool) -> String {
    if colour { format!("{code}{word}{RESET}") } else { word.to_owned() }
}

/// Wall time of day with microseconds.
fn time(exporter: &Exporter, at_ns: u64) -> String {
    let full = clock::rfc3339(&exporter.anchor, at_ns).to_string();
    full.get(11..26).unwrap_or(&full).to_owned()
}

/// Formatting into a `String` cannot fail.
fn put(out: &mut String, args: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(args);
    out.push('\n');
}

/// An `event` line.
pub fn event(exporter: &Exporter, event: &Event, colour: bool, out: &mut String) {
    let what = match event {
        Event::ProcessExit(e) => format!(
            "{} pid {} {}{}",
            comm_text(&e.comm),
            e.pid,
            ended(e.exit_code),
            if exit::core(e.exit_code) { ", core dumped" } else { "" }
        ),
        Event::OomKill(e) => format!(
            "victim {} pid {} ({} kB anonymous), triggered by {} pid {}",
            comm_text(&e.victim_comm),
            e.victim_pid,
            e.anon_kb,
            comm_text(&e.trigger_comm),
            e.trigger_pid
        ),
        Event::BlockIo(e) => {
            let latency = latency_ns(e).map_or("unknown latency".into(), duration);
            let error = errno(e);
            let error = if error == 0 { String::new() } else { format!(", error {error}") };
            format!("{} {} {latency}{error}", exporter.names().device(e.dev), op_name(e.op))
        }
        Event::TcpRetransmit(e) => flows::retransmit_words(e),
        Event::TcpConnect(e) => flows::connect_words(e),
        Event::TcpReset(e) => flows::reset_words(e),
        Event::PacketDrop(e) => flows::drop_words(exporter, e),
        Event::TaskHang(e) => format!("{} pid {} hangs in the kernel", comm_text(&e.comm), e.pid),
    };
    let text = format!("event    {:<16} {what}", sensor::name(event.sensor()));
    put(out, format_args!("{} {}", time(exporter, event.header().ktime_ns), paint(&text, DIM, colour)));
}

/// How a process ended, in words.
fn ended(code: u32) -> String {
    match exit::signal(code) {
        0 => format!("exited with status {}", exit::status(code)),
        signal => {
            let name = nix::sys::signal::Signal::try_from(signal as i32).map_or("?", |s| s.as_str());
            format!("killed by signal {signal} ({name})")
        }
    }
}

/// A duration with a fitting unit.
pub(super) fn duration(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.2} s", ns as f64 / 1e9),
    }
}

/// An `action` line.
pub fn action(exporter: &Exporter, action: &Action, colour: bool, out: &mut String) {
    let entity = format!("{} {}", action.target.kind(), exporter.names().entity(&action.target));
    let mut text = format!(
        "{:<8} {:<16} {entity} (a{} for f{})",
        action.decision.name(),
        action.verb.name(),
        action.id,
        action.fault
    );
    if let Some(reason) = action.reason {
        let _ = write!(text, ": {}", reason.name());
    }
    if let (Some(started), Some(finished)) = (action.started_ns, action.finished_ns) {
        let _ = write!(text, " [took {}]", duration(finished.saturating_sub(started)));
    }
    if let Some(outcome) = action.outcome {
        let _ = write!(text, " -> {}", outcome.name());
    }
    let code = match (action.decision, action.outcome) {
        (_, Some(Outcome::Failed)) => RED,
        (Decision::Executed, _) => GREEN,
        _ => YELLOW,
    };
    put(out, format_args!("{} {}", time(exporter, action.at_ns), paint(&text, code, colour)));
}

/// A `fault` line.
pub fn fault(exporter: &Exporter, fault: &Fault, decided_ns: Option<u64>, colour: bool, out: &mut String) {
    let (word, code) = match fault.state {
        State::Open => ("FAULT", severity_colour(fault.severity)),
        State::Clearing => ("clearing", YELLOW),
        State::Closed => ("closed", GREEN),
    };
    let delay =
        delay_ns(fault, decided_ns).map_or(String::new(), |ns| format!(" [{} after the kernel event]", duration(ns)));
    let head = format!("{word:<8} {:<16}", fault.kind.name());
    let workload = exporter.names().workload(&fault.entity).map_or(String::new(), |known| {
        // A name that somebody else chose must not steer the terminal.
        format!(" [{}]", known.short().to_string().replace(char::is_control, "?"))
    });
    put(
        out,
        format_args!(
            "{} {} {} {}{workload} (f{}, {}, priority {}, confidence {:.2}): {}{delay}",
            time(exporter, fault.at_ns),
            paint(&head, code, colour),
            fault.entity.kind(),
            exporter.names().entity(&fault.entity),
            fault.id,
            severity_word(fault.severity),
            fault.priority,
            f64::from(fault.confidence) / 1000.0,
            evidence(&fault.evidence),
        ),
    );
}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
        Severity::Critical => "critical",
    }
}

fn severity_colour(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => GREEN,
        Severity::Warning => YELLOW,
        Severity::Error => RED,
        Severity::Critical => BOLD_RED,
    }
}

fn evidence(evidence: &Evidence) -> String {
    let fact = |(name, value): &(&str, Value)| match value {
        Value::Number(n) => format!("{name} {n}"),
        Value::Flag(b) => format!("{name} {b}"),
        Value::Word(w) => format!("{name} {w}"),
        Value::Comm(c) => format!("{name} {}", comm_text(c)),
    };
    evidence.facts().iter().map(fact).collect::<Vec<_>>().join(", ")
}

/// A `loss` line.
pub fn loss(exporter: &Exporter, loss: &Loss, colour: bool, out: &mut String) {
    let sensor = loss.sensor.map_or("unknown", sensor::name);
    let text = format!("LOSS     {sensor:<16} {} events: {}", loss.count, loss.reason.name());
    put(out, format_args!("{} {}", time(exporter, loss.to_ns), paint(&text, RED, colour)));
}

/// A `health` line.
pub fn health(line: &HealthLine<'_>, colour: bool, out: &mut String) {
    let code = match line.state {
        "ok" => GREEN,
        "degraded" => YELLOW,
        _ => RED,
    };
    let state = paint(&format!("{:<11}", line.state), code, colour);
    let hook = line.hook.unwrap_or("-");
    let missing =
        if line.missing.is_empty() { String::new() } else { format!(" missing: {}", line.missing.join(", ")) };
    let error = line.error.as_ref().map_or(String::new(), |e| format!(" {e}"));
    put(out, format_args!("{:<16} {state} {hook:<10}{missing}{error}", line.sensor));
}

/// The `summary` lines.
pub fn summary(summary: &Summary, out: &mut String) {
    let names = ["sensor", "seen", "submitted", "filtered", "limited", "ring_full", "missed", "decoded", "malformed"];
    let mut row = format!("{:<16}", names[0]);
    names[1..].iter().for_each(|n| row.push_str(&format!(" {n:>10}")));
    put(out, format_args!("{row}"));
    for number in sensors() {
        let mut row = format!("{:<16}", sensor::SENSORS[number].name);
        for which in [SEEN, SUBMITTED, FILTERED, LIMITED, RING_FULL] {
            let count = summary.counters.map_or("-".into(), |c| c.sums[number][which].to_string());
            row.push_str(&format!(" {count:>10}"));
        }
        let missed = summary.counters.and_then(|c| c.missed[number]).map_or("unknown".into(), |n| n.to_string());
        row.push_str(&format!(
            " {missed:>10} {:>10} {:>10}",
            summary.tally.decoded[number], summary.tally.malformed[number]
        ));
        put(out, format_args!("{row}"));
    }
    put(out, format_args!("{} faults, {} still open", summary.faults, summary.alive));
    if summary.lost_lines > 0 {
        put(out, format_args!("{} lines were not printed: the reader of this output was too slow", summary.lost_lines));
    }
}
