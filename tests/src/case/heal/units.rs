//! Units that crash. In: a service manager of one's own. Out: how soon a crashed unit runs again, and that one which
//! cannot be helped is stopped.

use std::fs;

use anyhow::{Context, Result, ensure};
use faultline::{clock::monotonic_ns, heal::systemd::Systemd};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    COMMON, Home, address, journal_tells,
    mttr::{Mttr, healed, is_about, median, probe, story},
    only_on,
};
use crate::{
    agent::{Agent, PATIENCE},
    case::{step, systemd::run},
    private_systemd::PrivateSystemd,
};

/// How often a crash is repeated for a median.
const ROUNDS: usize = 9;

const PLANS: &str = r#"
[scope]
units = ["fl-*.service"]
[[plan]]
on = "process_crash"
entity = "fl-once-*.service"
steps = [{ verb = "restart-unit", verify_for = "300ms" }]
[[plan]]
on = "crash_loop"
entity = "fl-loop.service"
steps = [{ verb = "restart-unit", verify_for = "3s" }, { verb = "stop-unit", verify_for = "300ms" }]
"#;

/// A crashed unit is restarted; one that cannot be helped is stopped.
pub(super) fn units(start: u64) -> Result<()> {
    let manager = PrivateSystemd::start()?;
    let once: Vec<String> = (0..ROUNDS).map(|round| format!("fl-once-{round}.service")).collect();
    for unit in &once {
        manager.service(unit, "Restart=no", "exec sleep 1000\n")?;
        begin(&manager, unit)?;
    }
    let looping = "Restart=always\nRestartSec=100ms\nStartLimitIntervalSec=0";
    manager.service("fl-loop.service", looping, "sleep 0.05; exit 3\n")?;
    let home = Home::new("units")?;
    let mut agent = home.agent(&format!("{COMMON}{PLANS}"), Some(&address(&manager)))?;
    let mut times = Vec::new();
    for unit in &once {
        times.push(crash_once(&manager, &mut agent, unit)?);
    }
    let median = median(times)?;
    step(start, &format!("crashed units restarted: {ROUNDS} of {ROUNDS}, median {median}"));
    ensure!(median.healthy_ns < 1_000_000_000, "the median is not under a second");
    looping_unit(&manager, &mut agent)?;
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    only_on(&ended, "fl-")?;
    journal_tells(&home, &ended)?;
    step(start, "a unit in a crash loop was restarted, then stopped by plan; the journal tells the whole story");
    Ok(())
}

/// Starts a unit.
pub(super) fn begin(manager: &PrivateSystemd, unit: &str) -> Result<()> {
    run(async { Ok(Systemd::connect(&manager.bus()).await?.restart(unit, PATIENCE).await.map(drop)?) })
        .with_context(|| format!("cannot start {unit}"))
}

/// The main process of a unit as the kernel shows it: alive, and what its script turns into.
pub(super) fn main_process(manager: &PrivateSystemd, unit: &str) -> Option<u32> {
    let procs = manager.cgroup_of(&format!("/app.slice/{unit}")).join("cgroup.procs");
    let pid: u32 = fs::read_to_string(procs).ok()?.lines().next()?.parse().ok()?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (comm.trim() == "sleep").then_some(pid)
}

fn crash_once(manager: &PrivateSystemd, agent: &mut Agent, unit: &str) -> Result<Mttr> {
    let (victim, _) = probe("its main process", || main_process(manager, unit))?;
    let injected = monotonic_ns();
    kill(Pid::from_raw(victim.cast_signed()), Signal::SIGSEGV)?;
    let again = probe("another main process", || main_process(manager, unit).filter(|pid| *pid != victim));
    let (_, healthy) = again.with_context(|| story(agent))?;
    healed(agent, unit, injected, healthy)
}

fn looping_unit(manager: &PrivateSystemd, agent: &mut Agent) -> Result<()> {
    begin(manager, "fl-loop.service")?;
    let outcome = |verb: &'static str, outcome: &'static str| {
        move |line: &Value| line["verb"] == verb && line["outcome"] == outcome && is_about(line, "fl-loop.service")
    };
    agent.wait_for("a restart that does not help", outcome("restart-unit", "failed"))?;
    agent.wait_for("a stop that does", outcome("stop-unit", "recovered"))?;
    let health = run(async { Ok(Systemd::connect(&manager.bus()).await?.health("fl-loop.service").await?) })?;
    ensure!(health.is_stopped(), "it still runs: {health:?}");
    Ok(())
}
