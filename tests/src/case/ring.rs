//! A ring that is too large for the machine: named, shrunk, and the agent goes on.
//!
//! In a VM, where 256 MB are more than there is.

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use nix::sys::signal::Signal;

use super::{observe::missing, step};
use crate::{
    agent::Agent,
    inject::{Injector, oom::Oom},
};

/// The largest ring that a configuration may ask for.
const CONFIGURATION: &str = "[rings]\nbulk_bytes = 268435456\n";

/// Runs the case; a machine on which such a ring fits is said and passed over.
///
/// # Errors
/// The ring is not named, or the agent does not go on.
pub fn too_large() -> Result<()> {
    let start = monotonic_ns();
    if memory_kb()? > 320 << 10 {
        step(start, "ring too large: passed over, this machine has room for it");
        return Ok(());
    }
    let config = std::env::temp_dir().join(format!("faultline-ring-{}.toml", std::process::id()));
    std::fs::write(&config, CONFIGURATION)?;
    let mut agent = Agent::start(&["--config", &config.display().to_string()])?;
    std::fs::remove_file(&config)?;
    let said = agent.said();
    ensure!(said.contains("BULK"), "the ring that does not fit is not named: {said}");
    let broken = agent.lines.iter().any(|line| line.kind() == "health" && line.value["state"] == "broken");
    ensure!(broken, "no sensor says that it lost its ring: {said}");
    // The sensor that needs only the other ring.
    let mut target = Oom::prepare()?;
    let expected = target.inject(&missing(&agent, target.sensor()))?;
    agent.wait_for(&expected.describe(), |line| expected.is(line)).context("with a ring too large")?;
    ensure!(agent.stop(Signal::SIGTERM)?.code()? == 0, "the agent failed");
    step(start, "ring too large: named, and the other ring still feels an OOM kill");
    Ok(())
}

fn memory_kb() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let word = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    word.context("no MemTotal")?.parse().context("MemTotal")
}
