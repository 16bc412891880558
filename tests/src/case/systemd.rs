//! The client of the service manager against a real one. In: nothing. Out: the first thing that is not as it
//! should be. Each check has its own manager, so that they may run at the same time.

use std::{fs, future::Future, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use faultline::{
    clock::monotonic_ns,
    heal::systemd::{Restarted, Systemd, SystemdError, UnitHealth},
    model::action::Reason,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{executor, step};
use crate::{agent::PATIENCE, private_systemd::PrivateSystemd};

/// A service that runs until it is stopped.
const SLEEPER: &str = "exec sleep 1000\n";

/// A check by name.
pub type Check = (&'static str, fn(&mut PrivateSystemd) -> Result<()>);

/// All of them.
pub const CHECKS: &[Check] = &[
    ("a crashed unit is restarted, seen in its cgroup, and stopped", crashed_unit),
    ("a unit that is not there is unknown", unknown_unit),
    ("a job that fails is told from one that is done", failing_job),
    ("a stop that hangs is given up in time", hanging_stop),
    ("a start limit that was hit is reset first", start_limit),
    ("a masked unit is refused", masked_unit),
    ("a manager that was lost is found again or missed", lost_manager),
    ("two units are restarted at the same time", concurrent_restarts),
    ("the executor heals, sees what did not, and writes it down", executor::heals_and_sees),
    ("the executor survives its manager", executor::survives_the_manager),
];

/// Runs every check, each with a manager of its own.
///
/// # Errors
/// The first that fails, or no manager can be started.
pub fn systemd() -> Result<()> {
    let start = monotonic_ns();
    for (name, check) in CHECKS {
        let mut manager = PrivateSystemd::start()?;
        check(&mut manager).with_context(|| format!("{name}\n{}", manager.log()))?;
        drop(manager);
        step(start, name);
    }
    Ok(())
}

/// Runs a future to its end.
///
/// # Errors
/// What it says, or there is no runtime.
pub fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?.block_on(work)
}

/// Asks until a unit's health is as wanted.
///
/// # Errors
/// It did not become so in a minute, with the last health in the message.
pub async fn becomes(systemd: &Systemd, unit: &str, wanted: impl Fn(&UnitHealth) -> bool) -> Result<UnitHealth> {
    let deadline = monotonic_ns() + PATIENCE.as_nanos() as u64;
    loop {
        let health = systemd.health(unit).await?;
        if wanted(&health) {
            return Ok(health);
        }
        ensure!(monotonic_ns() < deadline, "{unit} did not get there: {health:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn crashed_unit(manager: &mut PrivateSystemd) -> Result<()> {
    manager.service("crash.service", "Restart=no", SLEEPER)?;
    run(async {
        let systemd = Systemd::connect(&manager.bus()).await?;
        let fresh = systemd.restart("crash.service", PATIENCE).await?;
        ensure!(fresh == Restarted { reset_failed: false }, "a first start resets nothing: {fresh:?}");
        let first = systemd.health("crash.service").await?;
        ensure!(first.is_running() == Some(true) && first.sub_state == "running", "{first:?}");
        ensure!(pids(manager, &first)? == [first.main_pid], "its cgroup holds its main process");
        kill(Pid::from_raw(i32::try_from(first.main_pid)?), Signal::SIGSEGV)?;
        let dead = becomes(&systemd, "crash.service", |health| health.active_state == "failed").await?;
        ensure!(dead.is_running() == Some(false) && dead.main_pid == 0, "{dead:?}");
        ensure!(matches!(dead.result.as_str(), "signal" | "core-dump"), "{dead:?}");
        let again = systemd.restart("crash.service", PATIENCE).await?;
        ensure!(again.reset_failed, "it had failed");
        let second = systemd.health("crash.service").await?;
        ensure!(second.is_running() == Some(true) && second.main_pid != first.main_pid, "{second:?}");
        systemd.stop("crash.service", PATIENCE).await?;
        let stopped = systemd.health("crash.service").await?;
        ensure!(stopped.is_stopped() && stopped.main_pid == 0, "{stopped:?}");
        ensure!(!manager.cgroup_of(&second.cgroup).exists(), "its cgroup is gone");
        Ok(())
    })
}

/// Processes of a unit, as the machine's own tree shows them.
fn pids(manager: &PrivateSystemd, health: &UnitHealth) -> Result<Vec<u32>> {
    ensure!(health.cgroup.ends_with(".service"), "{health:?}");
    let path: PathBuf = manager.cgroup_of(&health.cgroup).join("cgroup.procs");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

fn unknown_unit(manager: &mut PrivateSystemd) -> Result<()> {
    manager.unit("broken.service", "[Service]\nRestart=no\n")?;
    run(async {
        let systemd = Systemd::connect(&manager.bus()).await?;
        for name in ["nobody.service", "no unit at all", "broken.service"] {
            for error in [
                systemd.restart(name, PATIENCE).await.err(),
                systemd.stop(name, PATIENCE).await.err(),
                systemd.health(name).await.err(),
            ] {
                let error = error.with_context(|| format!("{name} was found"))?;
                ensure!(error.reason() == Reason::UnitUnknown && !error.touched(), "{name}: {error}");
            }
        }
        Ok(())
    })
}

fn failing_job(manager: &mut PrivateSystemd) -> Result<()> {
    // `oneshot`: its job is over when the command is, and as the command was.
    manager.service("failing.service", "Type=oneshot", "exit 3\n")?;
    manager.service("good.service", "Type=oneshot\nRemainAfterExit=yes", "exit 0\n")?;
    run(async {
        let systemd = Systemd::connect(&manager.bus()).await?;
        match systemd.restart("failing.service", PATIENCE).await {
            Err(error @ SystemdError::Job { .. }) => {
                ensure!(error.reason() == Reason::JobFailed && error.touched(), "{error}");
                ensure!(error.to_string().contains("failed"), "{error}");
            }
            other => bail!("{other:?}"),
        }
        let health = systemd.health("failing.service").await?;
        ensure!(health.active_state == "failed" && health.result == "exit-code", "{health:?}");
        systemd.restart("good.service", PATIENCE).await?;
        let health = systemd.health("good.service").await?;
        ensure!(health.is_running().is_none(), "active without a process cannot be told: {health:?}");
        Ok(())
    })
}

fn hanging_stop(manager: &mut PrivateSystemd) -> Result<()> {
    let script = "trap '' TERM\nwhile :; do sleep 1000; done\n";
    manager.service("hanging.service", "TimeoutStopSec=1000\nKillMode=mixed", script)?;
    run(async {
        let systemd = Systemd::connect(&manager.bus()).await?;
        systemd.restart("hanging.service", PATIENCE).await?;
        // The signal may come before the trap: wait for the script to be past it, which its child shows.
        let health = systemd.health("hanging.service").await?;
        let deadline = monotonic_ns() + PATIENCE.as_nanos() as u64;
        while pids(manager, &health)?.len() < 2 {
            ensure!(monotonic_ns() < deadline, "the script did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let limit = Duration::from_millis(300);
        let began = monotonic_ns();
        let error = systemd.stop("hanging.service", limit).await.err().context("it stopped")?;
        let took = Duration::from_nanos(monotonic_ns() - began);
        ensure!(error.reason() == Reason::TimedOut && error.touched(), "{error}");
        ensure!(took >= limit && took < PATIENCE, "after {took:?}");
        let health = systemd.health("hanging.service").await?;
        ensure!(health.active_state == "deactivating", "the job goes on: {health:?}");
        Ok(())
    })
}

fn start_limit(manager: &mut PrivateSystemd) -> Result<()> {
    let mended = manager.folder().join("mended");
    let script = format!("test -e {} && exec sleep 1000\nexit 1\n", mended.display());
    let limits = "Restart=always\nRestartSec=0\n[Unit]\nStartLimitIntervalSec=1000\nStartLimitBurst=3";
    manager.service("looping.service", limits, &script)?;
    run(async {
        let systemd = Systemd::connect(&manager.bus()).await?;
        systemd.restart("looping.service", PATIENCE).await?;
        becomes(&systemd, "looping.service", |health| health.active_state == "failed").await?;
        fs::write(&mended, "")?;
        let done = systemd.restart("looping.service", PATIENCE).await?;
        ensure!(done.reset_failed, "it must be said");
        becomes(&systemd, "looping.service", |health| health.is_running() == Some(true)).await?;
        Ok(())
    })
}

fn masked_unit(manager: &mut PrivateSystemd) -> Result<()> {
    std::os::unix::fs::symlink("/dev/null", manager.folder().join("units/masked.service"))?;
    manager.service("manual.service", "[Unit]\nRefuseManualStart=yes\nRefuseManualStop=yes", SLEEPER)?;
    run(async {
        let systemd = Systemd::connect(&manager.bus()).await?;
        for unit in ["masked.service", "manual.service"] {
            let error = systemd.restart(unit, PATIENCE).await.err().with_context(|| format!("{unit} started"))?;
            ensure!(error.reason() == Reason::NotPermitted && !error.touched(), "{error}");
        }
        Ok(())
    })
}

fn lost_manager(manager: &mut PrivateSystemd) -> Result<()> {
    let mut second = PrivateSystemd::start()?;
    second.service("a.service", "", SLEEPER)?;
    let socket = manager.socket();
    let systemd = Systemd::new(manager.bus());
    run(async {
        let unknown = systemd.health("a.service").await.err().context("this one has no such unit")?;
        ensure!(unknown.reason() == Reason::UnitUnknown, "{unknown}");
        manager.crash()?;
        let gone = systemd.restart("a.service", PATIENCE).await.err().context("nobody is there")?;
        ensure!(gone.reason() == Reason::NoServiceManager && !gone.touched(), "{gone}");
        // Another manager behind the same name: what a re-executed or restarted one looks like.
        fs::remove_file(&socket)?;
        std::os::unix::fs::symlink(second.socket(), &socket)?;
        systemd.restart("a.service", PATIENCE).await?;
        second.crash()?;
        let gone = systemd.health("a.service").await.err().context("nobody is there")?;
        ensure!(gone.reason() == Reason::NoServiceManager, "{gone}");
        Ok(())
    })
}

fn concurrent_restarts(manager: &mut PrivateSystemd) -> Result<()> {
    for unit in ["one.service", "two.service"] {
        // Slow to start, so that both jobs wait at the same time.
        manager.service(unit, "ExecStartPre=/bin/sleep 0.2", SLEEPER)?;
    }
    run(async {
        let systemd = Systemd::connect(&manager.bus()).await?;
        let both = tokio::join!(systemd.restart("one.service", PATIENCE), systemd.restart("two.service", PATIENCE));
        both.0?;
        both.1?;
        for unit in ["one.service", "two.service"] {
            let health = systemd.health(unit).await?;
            ensure!(health.is_running() == Some(true), "{unit}: {health:?}");
        }
        Ok(())
    })
}
