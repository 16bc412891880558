//! A crashed service, brought back. In: services of a private service manager, each crashed once. Out: how long until it has
//! another main process, by who brings it back: the service manager alone, without and with its usual pause, or a plan.
//!
//! No bar: a service manager that restarts its own child at once is hard to beat, and is what `Restart=` is for. The plan
//! is for what `Restart=` cannot tell apart (which fault, how often lately, how many others at the same time).

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use faultline::{clock::monotonic_ns, heal::systemd::Systemd};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Bench, machine,
    report::{Measure, Report},
    stats::{median, median_interval},
};
use crate::{
    agent::{Agent, PATIENCE, after},
    case::{heal::Home, systemd::run},
    private_systemd::PrivateSystemd,
};

/// How often the prober looks.
const PROBE: Duration = Duration::from_millis(1);
/// By then the agent knows all units.
const KNOWN: Duration = Duration::from_secs(1);

/// One way to come back.
struct Way {
    name: &'static str,
    settings: &'static str,
    note: &'static str,
}

/// The last is the one that the plan is about.
const WAYS: [Way; 3] = [
    Way {
        name: "systemd-at-once",
        settings: "Restart=always\nRestartSec=0\nStartLimitIntervalSec=0",
        note: "Restart=always, RestartSec=0",
    },
    Way {
        name: "systemd-default-pause",
        settings: "Restart=always\nRestartSec=100ms\nStartLimitIntervalSec=0",
        note: "Restart=always, RestartSec=100ms, which is the default",
    },
    Way { name: "faultline", settings: "Restart=no", note: "Restart=no and a plan with restart-unit" },
];

/// The unit that is number `n` of a way.
fn unit(way: &Way, n: usize) -> String {
    format!("fl-{}-{n}.service", way.name)
}

/// All ways, interleaved.
///
/// # Errors
/// There is no systemd, or a service did not come back.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let rounds = if bench.quick { 5 } else { 20 };
    let manager = PrivateSystemd::start()?;
    for (way, n) in WAYS.iter().flat_map(|way| (0..rounds).map(move |n| (way, n))) {
        let name = unit(way, n);
        manager.service(&name, way.settings, "exec sleep 1000\n")?;
        run(async { Ok(Systemd::connect(&manager.bus()).await?.restart(&name, PATIENCE).await.map(drop)?) })
            .with_context(|| format!("cannot start {name}"))?;
    }
    let home = Home::new("bench-restart")?;
    let mut agent = home.agent(POLICY, Some(&format!("unix:path={}", manager.socket().display())))?;
    agent.watch(KNOWN)?;
    let mut times = WAYS.map(|_| Vec::with_capacity(rounds));
    for n in 0..rounds {
        for turn in 0..WAYS.len() {
            let at = (n + turn) % WAYS.len();
            times[at].push(crash(&manager, &unit(&WAYS[at], n))?);
        }
        restarted(&mut agent, &unit(&WAYS[2], n))?;
    }
    agent.stop(Signal::SIGTERM)?;
    tell(&times, report);
    Ok(())
}

/// Only the units of the plan are in its scope.
const POLICY: &str = r#"
mode = "act"
[scope]
units = ["fl-faultline-*.service"]
[[plan]]
on = "process_crash"
steps = [{ verb = "restart-unit", verify_for = "300ms" }]
[budget]
actions = 100
cooldown = "1ms"
[budget.blast_radius]
count = 100
share_percent = 100
"#;

/// From SIGSEGV to another main process, ms.
fn crash(manager: &PrivateSystemd, unit: &str) -> Result<f64> {
    let victim = probe(unit, || main_process(manager, unit))?.0;
    let injected = monotonic_ns();
    kill(Pid::from_raw(victim.cast_signed()), Signal::SIGSEGV)?;
    let (_, again) = probe(unit, || main_process(manager, unit).filter(|pid| *pid != victim))?;
    Ok((again - injected) as f64 / 1e6)
}

/// Whether it was the agent who did it.
fn restarted(agent: &mut Agent, unit: &str) -> Result<()> {
    let done = agent.wait_for(&format!("restart of {unit}"), |line| {
        line["verb"] == "restart-unit"
            && line["decision"] == "executed"
            && line["target"]["name"].as_str().is_some_and(|target| target.ends_with(unit))
    })?;
    ensure!(done["reason"].is_null(), "it was not restarted by plan: {done}");
    Ok(())
}

/// The main process of a unit as the kernel shows it: alive, and what its script turns into.
fn main_process(manager: &PrivateSystemd, unit: &str) -> Option<u32> {
    let procs = manager.cgroup_of(&format!("/app.slice/{unit}")).join("cgroup.procs");
    let pid: u32 = fs::read_to_string(procs).ok()?.lines().next()?.parse().ok()?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (comm.trim() == "sleep").then_some(pid)
}

/// The prober: looks every millisecond until it sees what is wanted, and says when that was.
fn probe<T>(unit: &str, mut look: impl FnMut() -> Option<T>) -> Result<(T, u64)> {
    let deadline = after(PATIENCE);
    loop {
        if let Some(seen) = look() {
            return Ok((seen, monotonic_ns()));
        }
        ensure!(monotonic_ns() < deadline, "{unit} has no main process");
        machine::wait(PROBE);
    }
}

fn tell(times: &[Vec<f64>], report: &mut Report) {
    for (way, times) in WAYS.iter().zip(times) {
        let measure = Measure::new(format!("hands.restart.{}.p50", way.name), median(times), "ms");
        let (worst, count) = (times.iter().copied().fold(0.0, f64::max), times.len());
        let note = format!(
            "{}; SIGSEGV to another main process, {count} crashes, max {worst:.1} ms, an own prober looks every 1 ms",
            way.note
        );
        report.add(measure.within(median_interval(times)).note(note));
    }
}
