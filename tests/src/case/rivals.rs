//! `rivals`: the same greedy group of processes, ended by who is meant to. Only inside a VM: one of the rivals is earlyoom,
//! which kills by itself, machine-wide. In: how many rounds. Out: rows of the benchmark's report.
//!
//! A group is one process that takes memory at a steady rate and two that rest, in one cgroup and one process group. It is
//! ended as a whole in each of three ways, block by block:
//! - *earlyoom* (`-g`: the whole process group; SIGKILL at once: both limits equal; `-p`: raised priority). It polls
//!   `/proc/meminfo`, at most ten times a second, for the memory of the whole machine. The clock starts when the greedy one
//!   itself sees MemAvailable cross that limit.
//! - *faultline*: the cgroup has a limit; at it the kernel kills the greedy one, and the plan's reflex `kill` ends the rest.
//!   The clock starts with the kernel's event, and for a second figure with the last memory that the greedy one got.
//! - *the kernel alone*, with `memory.oom.group`, from that last memory on: how long an emulated machine takes to let three
//!   processes die, which is most of every figure here.
//!
//! So the situations differ, and the figures say how fast each answers its own: earlyoom guards the machine before anything
//! is killed, which the other two cannot; they guard a limit that somebody has set.

mod group;

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::heal::Home;
use crate::{
    agent::{Agent, PATIENCE, after},
    bench::{
        machine,
        report::{Measure, Report},
        stats::{Random, median},
    },
};
use group::{Group, share};

pub use group::{GREEDY, greedy};

/// The limit lies this far below what is available, in points of the whole memory.
const BELOW: u64 = 15;
/// The cgroup's limit, bytes.
const LIMIT: u64 = 64 << 20;
/// By then the handles of all cgroups are prepared; an emulated machine takes its time.
const PREPARED: std::time::Duration = std::time::Duration::from_secs(3);
/// What only the guest of `cargo xtask vm` has.
const GUEST: &str = "/faultline-vm.json";

/// From the start of each clock until everybody of the group was dead, ms.
#[derive(Default)]
struct Times {
    earlyoom: Vec<f64>,
    faultline: Vec<f64>,
    faultline_from_limit: Vec<f64>,
    kernel: Vec<f64>,
}

/// Runs all ways; words: `json`, `quick`.
///
/// # Errors
/// This is no VM, something cannot be started, or a group outlived its end.
pub fn rivals(words: &[String]) -> Result<()> {
    ensure!(Path::new(GUEST).exists(), "rivals run only in a VM: `cargo xtask vm --earlyoom`");
    let has = |word: &str| words.iter().any(|given| given == word);
    // Blocks of rounds of each way, in turn.
    let (blocks, rounds) = if has("quick") { (1, 3) } else { (2, 5) };
    let mut times = Times::default();
    for block in 0..blocks {
        by_earlyoom(block, rounds, &mut times)?;
        by_faultline(block, rounds, &mut times)?;
        by_kernel(block, rounds, &mut times)?;
    }
    tell(&times, &mut Report::new(has("json")));
    Ok(())
}

/// Killed and reaped when dropped.
struct Rival(Child);

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_earlyoom(block: usize, rounds: usize, times: &mut Times) -> Result<()> {
    let percent = available_percent()?.checked_sub(BELOW).filter(|percent| *percent >= BELOW);
    let percent = percent.context("too little memory is available: give the VM more")?;
    let limits = format!("{percent},{percent}");
    let mut command = Command::new("earlyoom");
    // Without reports, and never this program or what it runs in.
    command.args(["-m", &limits, "-g", "-p", "-r", "0", "--avoid", "^(faultline-case|init|sh)$"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create("/tmp/earlyoom.log")?);
    let _rival = Rival(command.spawn().context("cannot start earlyoom: boot with `cargo xtask vm --earlyoom`")?);
    wait_until_said("SIGKILL when mem")?;
    let mut random = Random::new(block as u64 + 1);
    for round in 0..rounds {
        let group = Group::new(&format!("fl-rival-early-{block}-{round}"))?;
        // Anywhere between two of its looks.
        machine::wait(std::time::Duration::from_millis(300 + random.below(100)));
        group.go(Some(percent))?;
        let dead = group.all_dead()?;
        times.earlyoom.push(since(group.crossed()?, dead)?);
    }
    Ok(())
}

fn wait_until_said(text: &str) -> Result<()> {
    let deadline = after(PATIENCE);
    while !fs::read_to_string("/tmp/earlyoom.log")?.contains(text) {
        ensure!(faultline::clock::monotonic_ns() < deadline, "earlyoom does not get ready");
        machine::wait(std::time::Duration::from_millis(10));
    }
    Ok(())
}

fn by_faultline(block: usize, rounds: usize, times: &mut Times) -> Result<()> {
    let name = |round: usize| format!("fl-rival-{block}-{round}");
    let groups: Vec<Group> = (0..rounds).map(|round| Group::new(&name(round))).collect::<Result<_>>()?;
    let scope: Vec<String> = (0..rounds).map(|round| format!("\"/{}\"", name(round))).collect();
    let home = Home::new("rivals")?;
    let mut agent = home.agent(&POLICY.replace("SCOPE", &scope.join(", ")), None)?;
    agent.watch(PREPARED)?;
    for (round, group) in groups.iter().enumerate() {
        group.limit(LIMIT)?;
        group.go(None)?;
        let dead = group.all_dead()?;
        times.faultline.push(since(event_of(&mut agent, &name(round))?, dead)?);
        times.faultline_from_limit.push(since(group.last_taken()?, dead)?);
    }
    agent.stop(Signal::SIGTERM)?;
    Ok(())
}

/// The kernel's stamp of the OOM kill in a cgroup whose rest the agent has killed.
fn event_of(agent: &mut Agent, name: &str) -> Result<u64> {
    let ends = |value: &serde_json::Value| value.as_str().is_some_and(|path| path.ends_with(&format!("/{name}")));
    agent.wait_for(&format!("a kill of {name}"), |line| {
        line["verb"] == "kill" && line["decision"] == "executed" && ends(&line["target"]["name"])
    })?;
    let event = agent.wait_for("its event", |line| line["sensor"] == "oom_kill" && ends(&line["cgroup"]))?;
    event["ktime_ns"].as_u64().context("an event without a time")
}

/// Room for every round; all else as by default.
const POLICY: &str = r#"
mode = "act"
[scope]
cgroups = [SCOPE]
[[plan]]
on = "oom_kill"
steps = [{ verb = "kill", verify_for = "1s" }]
[budget]
actions = 100
cooldown = "1ms"
[budget.blast_radius]
count = 100
share_percent = 100
"#;

fn by_kernel(block: usize, rounds: usize, times: &mut Times) -> Result<()> {
    for round in 0..rounds {
        let group = Group::new(&format!("fl-rival-kernel-{block}-{round}"))?;
        group.limit(LIMIT)?;
        group.set("memory.oom.group", "1")?;
        group.go(None)?;
        let dead = group.all_dead()?;
        times.kernel.push(since(group.last_taken()?, dead)?);
    }
    Ok(())
}

fn since(start: u64, end: u64) -> Result<f64> {
    ensure!(start > 0 && start <= end, "a clock that started at {start} and ended at {end}");
    Ok((end - start) as f64 / 1e6)
}

/// Memory that is available, per cent of all.
fn available_percent() -> Result<u64> {
    let (available, total) = share(&fs::read_to_string("/proc/meminfo")?).context("/proc/meminfo")?;
    Ok(available * 100 / total.max(1))
}

fn tell(times: &Times, report: &mut Report) {
    let early = median(&times.earlyoom);
    for (name, times, from) in [
        (
            "earlyoom",
            &times.earlyoom,
            "earlyoom -g -p, SIGKILL limit: from the moment MemAvailable of the machine crosses it; it looks every 100 ms",
        ),
        (
            "faultline",
            &times.faultline,
            "reflex kill of the rest of a cgroup: from the kernel's event of an OOM kill in it",
        ),
        (
            "faultline.from_limit",
            &times.faultline_from_limit,
            "the same: from the last memory before the cgroup's limit",
        ),
        ("kernel", &times.kernel, "memory.oom.group alone: from the last memory before the cgroup's limit"),
    ] {
        let worst = times.iter().copied().fold(0.0, f64::max);
        let note =
            format!("{} rounds, max {worst:.1} ms, until all 3 processes are dead; {from}; emulated VM", times.len());
        report.add(Measure::new(format!("hands.oom.{name}.p50"), median(times), "ms").against(early).note(note));
    }
}
