//! `observe`: every fault is felt once, with the right fields, through every rung that the kernel offers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{health, ring, step};
use crate::{
    agent::Agent,
    inject::{self, Injector},
    truth::{Expected, Truth},
};

/// One run of the agent: the rung, the sensors forced to it, and the faults to make.
struct Round {
    rung: &'static str,
    forced: &'static [&'static str],
    faults: &'static [&'static str],
}

const ROUNDS: [Round; 3] = [
    Round { rung: "tp_btf", forced: &[], faults: &inject::NAMES },
    Round {
        rung: "raw_tp",
        forced: &[
            "oom_kill",
            "process_exit",
            "block_io",
            "tcp_retransmit",
            "task_hang",
            "tcp_connect",
            "tcp_reset",
            "packet_drop",
        ],
        faults: &inject::NAMES,
    },
    Round { rung: "tracepoint", forced: &["oom_kill", "tcp_retransmit", "task_hang"], faults: &["oom", "net", "hang"] },
];

/// Runs all rounds.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn observe() -> Result<()> {
    let start = monotonic_ns();
    step(start, &format!("kernel {}", inject::kernel_release()?));
    health::doctor()?;
    for round in &ROUNDS {
        play(round, start).with_context(|| format!("on rung {}", round.rung))?;
    }
    fallback(start)?;
    ring::too_large()
}

/// What a sensor would feel is told by the kernel's log where that sensor is off, and by it alone where it is on.
fn fallback(start: u64) -> Result<()> {
    let mut target = inject::prepare("hang")?;
    let file = std::env::temp_dir().join("fallback.toml");
    std::fs::write(&file, "[sensors]\ntask_hang = false\n").context("a configuration")?;
    let mut agent = Agent::start(&["--no-flight", "--config", &file.display().to_string()])?;
    let pid = target.inject(&[])?.evidence["pid"].clone();
    let is_it = |line: &Value| line["kind"] == "kernel_log" && line["entity"]["name"] == "hung_task dd";
    let fault = agent.wait_for("a hung task in the kernel's log", is_it)?;
    ensure!(fault["evidence"]["number"] == pid, "it is about {pid}: {fault}");
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.lines.iter().all(|line| line.value["kind"] != "task_hang"), "that sensor is off");
    step(start, "without its sensor a hung task is told by the kernel's log");
    Ok(())
}

fn play(round: &Round, start: u64) -> Result<()> {
    // Targets first: they are part of the machine when the agent looks around.
    let mut targets: Vec<_> = round.faults.iter().map(|name| inject::prepare(name)).collect::<Result<_>>()?;
    let hooks: Vec<_> = round.forced.iter().map(|sensor| format!("--hook={sensor}={}", round.rung)).collect();
    let mut agent = Agent::start(&hooks.iter().map(String::as_str).collect::<Vec<_>>())?;
    let kernel = inject::kernel_release()?;
    health::judge(&kernel, &agent.lines, round.rung)?;
    let mut truth = Truth { injector: "observe".into(), kernel, faults: Vec::new() };
    for target in &mut targets {
        let expected = feel(&mut agent, target.as_mut())?;
        step(start, &format!("{}: {} was felt: {}", round.rung, target.name(), expected.describe()));
        truth.faults.push(expected);
    }
    // A second report of the same fault, or one that nobody caused, would come now.
    agent.watch(Duration::from_secs(2))?;
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "the agent ended with {}: {}", ended.status, ended.stderr);
    truth.judge(&ended.lines)?;
    for fault in &truth.faults {
        fault.judge_event(&ended.lines)?;
    }
    books(ended.summary()?)?;
    step(start, &format!("{}: every fault once and no other; drained in {:?}", round.rung, ended.took));
    Ok(())
}

/// Makes a fault happen and waits for its line.
fn feel(agent: &mut Agent, target: &mut dyn Injector) -> Result<Expected> {
    let expected = target.inject(&missing(agent, target.sensor())).with_context(|| target.name())?;
    agent.wait_for(&expected.describe(), |line| expected.is(line)).with_context(|| target.name())?;
    Ok(expected)
}

/// The fields that a sensor of this agent does not get from the kernel, as its health says.
pub fn missing(agent: &Agent, sensor: &str) -> Vec<String> {
    let health = agent.lines.iter().find(|line| line.kind() == "health" && line.value["sensor"] == sensor);
    let fields = health.and_then(|line| line.value["missing"].as_array()).into_iter().flatten();
    fields.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The counters of a run in which nothing was lost add up.
fn books(summary: &Value) -> Result<()> {
    let sensors = summary["sensors"].as_object().context("no sensors in the summary")?;
    for (name, counters) in sensors {
        let counter = |key: &str| counters[key].as_u64().with_context(|| format!("{name}.{key} is no number"));
        let sum = counter("submitted")? + counter("filtered")? + counter("limited")? + counter("ring_full")?;
        ensure!(counter("seen")? == sum, "{name}: seen is not the sum of what became of it: {counters}");
        let read = counter("decoded")? + counter("malformed")?;
        ensure!(counter("submitted")? == read, "{name}: submitted is not what was read: {counters}");
    }
    Ok(())
}
