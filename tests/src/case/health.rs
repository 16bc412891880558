//! What each kernel offers. In: the running kernel's release. Out: agreement of `doctor` with the table below.
//!
//! The table is what was found on real kernels; a change of the agent that loses a rung or a field anywhere fails here.

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use serde_json::{Value, json};

use crate::{agent, inject};

/// Kernels whose `mark_victim` hands over nothing but the victim's pid. 5.10.262 of the same series hands over the task.
const PID_ONLY: [&str; 1] = ["5.10.0-30-"];

/// Fields of `oom_kill` that need the victim's task.
const NEED_TASK: [&str; 7] = ["victim_comm", "anon_kb", "file_kb", "shmem_kb", "total_vm_kb", "uid", "cgroup_id"];

/// State and missing fields that a sensor must have.
fn expected(release: &str, sensor: &str, rung: &str) -> (&'static str, Vec<&'static str>) {
    let pid_only = PID_ONLY.iter().any(|start| release.starts_with(start));
    match (sensor, rung) {
        ("oom_kill", _) if pid_only => ("degraded", NEED_TASK.to_vec()),
        ("oom_kill", "tracepoint") => ("degraded", vec!["cgroup_id"]),
        ("tcp_retransmit", "tracepoint") => ("degraded", vec!["segs_out", "total_retrans", "netns"]),
        _ => ("ok", vec![]),
    }
}

/// Holds `health` lines against the table.
///
/// # Errors
/// The first sensor that differs.
pub fn judge(release: &str, lines: &[agent::Line], rung: &str) -> Result<()> {
    for sensor in ["tcp_retransmit", "oom_kill", "block_io", "process_exit"] {
        let line = lines.iter().find(|line| line.kind() == "health" && line.value["sensor"] == sensor);
        let line = &line.with_context(|| format!("no health of {sensor}"))?.value;
        if line["hook"] != rung {
            // Only the forced sensors use this rung.
            continue;
        }
        let (state, mut missing) = expected(release, sensor, rung);
        let mut found: Vec<_> = line["missing"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        found.sort_unstable();
        missing.sort_unstable();
        ensure!(
            line["state"] == state && found == missing,
            "{sensor} on {release} should be {state}, missing {missing:?}: {line}"
        );
    }
    Ok(())
}

/// `doctor` on this kernel.
///
/// # Errors
/// It fails, or differs from the table.
pub fn doctor() -> Result<()> {
    let start = monotonic_ns();
    let ended = agent::run(&["doctor", "--json"])?;
    ensure!(ended.code()? == 0, "doctor ended with {}: {}", ended.status, ended.stderr);
    let hooks = ended.lines.iter().filter(|line| line.value["hook"] == json!("tp_btf")).count();
    ensure!(hooks == agent::SENSORS, "{hooks} of {} sensors use their first rung", agent::SENSORS);
    judge(&inject::kernel_release()?, &ended.lines, "tp_btf")?;
    super::step(start, "doctor agrees with the table");
    Ok(())
}
