//! `flood`: a million requests of an own device while the consumer is stopped, and every one of them is in the books. In:
//! nothing. Out: the sums, or the first that is not exact.
//!
//! The truth is the device's own count of reads, in /sys/block. A VM, because there no other disk works meanwhile.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::{heal::Home, step};
use crate::agent::Agent;

/// Requests of one run.
const REQUESTS: u64 = 1_000_000;
const DEVICE: &str = "nullb0";

/// One run where the ring is full, and one where the limit refuses.
///
/// # Errors
/// The books are not exact, or there is no such device.
pub fn flood() -> Result<()> {
    let start = monotonic_ns();
    let module = ["null_blk", "queue_mode=2", "irqmode=0", "completion_nsec=0", "gb=4"];
    tool("modprobe", &module)?;
    // One request for each page: nothing is read ahead.
    fs::write(format!("/sys/block/{DEVICE}/queue/read_ahead_kb"), "0").context("read_ahead_kb")?;
    for (counter, limit) in [("ring_full", 10_000_000), ("limited", 500)] {
        let block_io = round(limit)?;
        let count = |key: &str| block_io[key].as_u64().with_context(|| format!("no {key} in {block_io}"));
        ensure!(count("seen")? == REQUESTS, "{REQUESTS} requests, but {block_io}");
        let out = count("submitted")? + count("filtered")? + count("limited")? + count("ring_full")?;
        ensure!(out == REQUESTS && count("submitted")? == count("decoded")? + count("malformed")?, "{block_io}");
        ensure!(count(counter)? > 0 && block_io["missed"] == 0, "{block_io}");
        step(start, &format!("{REQUESTS} requests, all in the books: {block_io}"));
    }
    Ok(())
}

fn round(limit: u64) -> Result<Value> {
    let home = Home::new("flood")?;
    let file = home.path().join("flood.toml");
    let text = format!(
        "[detect.disk_latency]\noutlier = \"1us\"\n[limits]\nblock_per_device = {limit}\n[output]\nevents = false\n"
    );
    fs::write(&file, text)?;
    let mut command = home.command(&["run", "--json", "--no-flight", "--config"])?;
    command.arg(&file);
    let agent = Agent::start_command(command)?;
    kill(agent.pid(), Signal::SIGSTOP)?;
    let before = reads()?;
    let (from, count) = (format!("if=/dev/{DEVICE}"), format!("count={REQUESTS}"));
    tool("dd", &[&from, "of=/dev/null", "bs=4096", &count])?;
    let own = reads()? - before;
    ensure!(own == REQUESTS, "the device itself counted {own} reads");
    kill(agent.pid(), Signal::SIGCONT)?;
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    Ok(ended.summary()?["sensors"]["block_io"].clone())
}

/// The device's own count of completed reads: the first number of its `stat` (Documentation/block/stat.rst).
fn reads() -> Result<u64> {
    let text = fs::read_to_string(format!("/sys/block/{DEVICE}/stat")).context("the device's stat")?;
    text.split_whitespace().next().and_then(|n| n.parse().ok()).with_context(|| format!("stat: {text}"))
}

fn tool(program: &str, words: &[&str]) -> Result<()> {
    let done = Command::new(program).args(words).output().with_context(|| format!("cannot start {program}"))?;
    ensure!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
