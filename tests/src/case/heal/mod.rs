//! `heal`: real faults, a real policy, and an independent prober that says when the patient is well again.
//!
//! In: nothing. Out: a line per case with the time from the injection to health, split into detect, decide, act and
//! verify; an error at the first thing that is not as it should be.

mod home;
mod kernel_thread;
mod memory;
mod mttr;
mod units;

pub use home::Home;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::step;
use crate::{agent::Ended, inject, private_systemd::PrivateSystemd};

/// Runs every case that this machine can hold.
///
/// # Errors
/// The first that fails.
pub fn heal() -> Result<()> {
    let start = monotonic_ns();
    units::units(start)?;
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        memory::oom_in_a_unit(start)?;
        memory::three_ooms(start)?;
        kernel_thread::kernel_thread(start)?;
        bystanders(start)?;
    } else {
        step(start, "no machine of cgroup v2 alone: the cases of memory, kernel threads and bystanders are left out");
    }
    Ok(())
}

fn address(manager: &PrivateSystemd) -> String {
    format!("unix:path={}", manager.socket().display())
}

/// What all policies here share: quick to clear, no line per event, room for every action.
const COMMON: &str = r#"
mode = "act"
[budget]
actions = 100
cooldown = "1ms"
[budget.blast_radius]
count = 20
share_percent = 100
[faults]
clear_after = "1s"
close_after = "1s"
[output]
events = false
"#;

/// A slow disk and a loss storm are felt and clear, and nothing is done about them.
fn bystanders(start: u64) -> Result<()> {
    let mut targets = [inject::prepare("slow-disk")?, inject::prepare("net")?];
    let home = Home::new("bystanders")?;
    let plan = "[scope]\ncgroups = [\"/fl-nothing\"]\n[[plan]]\non = \"crash_loop\"\nsteps = [{ verb = \"kill\" }]\n";
    let mut agent = home.agent(&format!("{COMMON}{plan}"), None)?;
    for target in &mut targets {
        let expected = target.inject(&super::observe::missing(&agent, target.sensor()))?;
        let fault = agent.wait_for(&expected.describe(), |line| expected.is(line))?;
        agent.wait_for("its end", |line| line["id"] == fault["id"] && line["state"] == "closed")?;
    }
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    ensure!(ended.lines.iter().all(|line| line.kind() != "action"), "something was done, or tried");
    step(start, "a slow disk and a loss storm were felt and cleared, with no action");
    Ok(())
}

/// Every action that was done is on something of ours.
fn only_on(ended: &Ended, word: &str) -> Result<()> {
    for line in ended.lines.iter().filter(|line| line.value["decision"] == "executed") {
        let name = line.value["target"]["name"].as_str().unwrap_or_default();
        ensure!(name.contains(word), "acted outside the scope: {}", line.text);
    }
    Ok(())
}

/// `faultline actions` lists each executed action once, with the outcome that was printed last.
fn journal_tells(home: &Home, ended: &Ended) -> Result<()> {
    let mut printed: BTreeMap<&str, &Value> = BTreeMap::new();
    for line in ended.lines.iter().filter(|line| line.value["decision"] == "executed") {
        printed.insert(line.value["id"].as_str().context("an action without an id")?, &line.value["outcome"]);
    }
    let listed = home.command(&["actions", "--json"])?.output().context("faultline actions")?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout)?;
    let entries: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for (id, outcome) in &printed {
        let about: Vec<&Value> = entries.iter().filter(|entry| entry["id"] == **id).collect();
        ensure!(about.len() == 1, "{id} is in the journal {} times:\n{text}", about.len());
        ensure!(about[0]["outcome"] == **outcome, "{id}: {} in the journal, {outcome} printed", about[0]["outcome"]);
    }
    Ok(())
}
