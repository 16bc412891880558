//! An OOM kill must be felt in the middle of a storm that overflows the rings while the agent is stalled.
//!
//! In: the `faultline` binary beside this one, root. Out: a line for each storm, exit status 0 if the OOM kill
//! was detected and the storm really lost records. Two storms: processes that die by signals as fast as they
//! can be made, and retransmits of the fire drill's lossy link into the smallest possible ring.
#![expect(
    unsafe_code,
    reason = "the crash storm clones on a stack of its own, and the stalled agent is signalled by pid"
)]

use std::{
    fs,
    io::Write,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use faultline_tests::{agent::Agent, inject, lock, program};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

/// Deaths of the crash storm; several times what the ring holds.
const DEATHS: u32 = 30_000;

fn main() -> ExitCode {
    let role = std::env::args().nth(1);
    let done = match role.as_deref() {
        Some("crash-storm") => crash_storm(),
        None => both(),
        Some(other) => Err(anyhow::anyhow!("unknown argument {other}; usage: faultline-storm")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "faultline-storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn both() -> Result<()> {
    let _alone = lock::machine()?;
    let crashes = || Ok(Command::new(std::env::current_exe()?).arg("crash-storm").status()?.success());
    let limits = "[limits]\nexit_per_executable = 10000000\n";
    storm("crash storm", limits, "process_exit", "limited", crashes)?;
    // The drill's own agent reports our OOM kill or not, as it likes: here it only makes retransmits, some
    // forty a time, of which the smallest ring holds about thirty.
    let drills = || {
        let agent = program::faultline()?;
        let drill = |_| Command::new(agent).args(["drill", "net"]).output().is_ok_and(|o| o.status.success());
        Ok((0..4).all(drill))
    };
    storm("retransmit storm", "[rings]\nbulk_bytes = 4096\n", "tcp_retransmit", "ring_full", drills)
}

/// Stalls the agent, makes the storm and one OOM kill, lets the agent go on, and looks what it made of it.
fn storm(name: &str, config: &str, sensor: &str, lost: &str, make: impl Fn() -> Result<bool>) -> Result<()> {
    let path = std::env::temp_dir().join(format!("faultline-storm-{}.toml", std::process::id()));
    fs::write(&path, format!("{config}[output]\nevents = false\n"))?;
    let mut oom = inject::prepare("oom")?;
    let mut agent = Agent::start(&["--config", &path.display().to_string()])?;
    let _ = fs::remove_file(&path);
    kill(agent.pid(), Signal::SIGSTOP)?;
    let stormy = make().and_then(|good| {
        ensure!(good, "{name}: its source failed");
        oom.inject(&[])
    });
    kill(agent.pid(), Signal::SIGCONT)?;
    let expected = stormy?;
    agent.wait_for("oom_kill", |line| expected.is(line))?;
    let ended = agent.stop(Signal::SIGTERM)?;
    let summary = &ended.summary()?["sensors"];
    let count = |sensor: &str, key: &str| summary[sensor][key].as_u64().with_context(|| format!("{sensor}.{key}"));
    let (seen, gone) = (count(sensor, "seen")?, count(sensor, lost)?);
    ensure!(gone > 0, "{name}: nothing was lost, so the storm was too small: {summary}");
    reconcile(summary)?;
    writeln!(std::io::stdout(), "{name}: {seen} {sensor} events, {gone} {lost}; the OOM kill was detected")?;
    Ok(())
}

/// What was submitted was decoded, or malformed; nothing in between.
fn reconcile(sensors: &Value) -> Result<()> {
    for (name, sensor) in sensors.as_object().context("sensors is an object")? {
        let of = |key: &str| sensor[key].as_u64().unwrap_or(0);
        let exits = of("submitted") + of("filtered") + of("limited") + of("ring_full");
        ensure!(of("seen") == exits, "{name}: {sensor}");
        ensure!(of("submitted") == of("decoded") + of("malformed"), "{name}: {sensor}");
    }
    Ok(())
}

/// Makes children that kill themselves.
fn crash_storm() -> Result<()> {
    extern "C" fn child(_: *mut libc::c_void) -> libc::c_int {
        // SAFETY: system calls of the child about itself; SIGKILL does not reach the parent it shares memory with.
        unsafe { libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGKILL) };
        1
    }
    // SAFETY: sets a disposition of this single-threaded process; the kernel then reaps its children.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut stack = vec![0u128; 4096];
    let top = stack.as_mut_ptr_range().end.cast::<libc::c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    for _ in 0..DEATHS {
        // SAFETY: the child runs on its own stack and CLONE_VFORK holds us until it is gone.
        let pid = unsafe { libc::clone(child, top, flags, std::ptr::null_mut()) };
        ensure!(pid > 0, "clone: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
