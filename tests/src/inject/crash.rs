//! `crash` and `crash-loop`. In: nothing. Out: an own child that dies of SIGSEGV, or three that are killed in a row.

use anyhow::Result;
use faultline::clock::monotonic_ns;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Injector, child};
use crate::truth::Expected;

/// One crash.
#[derive(Debug)]
pub struct Crash;

/// Deaths that are a loop; the default of `detect.crash_loop.count`.
const DEATHS: usize = 3;

impl Injector for Crash {
    fn name(&self) -> &'static str {
        "crash"
    }

    fn sensor(&self) -> &'static str {
        "process_exit"
    }

    fn inject(&mut self, _: &[String]) -> Result<Expected> {
        let name = child::own_name("fl-crash");
        let earliest_ns = monotonic_ns();
        let pid = child::dies(&name, Signal::SIGSEGV, || child::die_of(Signal::SIGSEGV))?;
        Ok(expected("process_crash", name, pid.as_raw(), Signal::SIGSEGV, earliest_ns))
    }
}

/// A crash loop, of deaths that are no crash by themselves.
#[derive(Debug)]
pub struct CrashLoop;

impl Injector for CrashLoop {
    fn name(&self) -> &'static str {
        "crash-loop"
    }

    fn sensor(&self) -> &'static str {
        "process_exit"
    }

    fn inject(&mut self, _: &[String]) -> Result<Expected> {
        let name = child::own_name("fl-loop");
        let earliest_ns = monotonic_ns();
        let mut last = 0;
        for _ in 0..DEATHS {
            last = child::dies(&name, Signal::SIGKILL, || child::die_of(Signal::SIGKILL))?.as_raw();
        }
        let mut expected = expected("crash_loop", name, last, Signal::SIGKILL, earliest_ns);
        expected.evidence.insert("deaths".into(), DEATHS.into());
        Ok(expected)
    }
}

fn expected(kind: &str, comm: String, pid: i32, signal: Signal, earliest_ns: u64) -> Expected {
    let signal = signal as i32;
    Expected {
        kind: kind.into(),
        entity_kind: "executable".into(),
        entity_name: comm.clone(),
        earliest_ns,
        latest_ns: monotonic_ns(),
        evidence: object(json!({ "pid": pid, "comm": comm, "signal": signal, "status": 0, "core": false })),
        event: object(json!({
            "sensor": "process_exit", "pid": pid, "comm": comm, "cgroup": own_cgroup(),
            "signal": signal, "core": false, "exit_code": 0, "ppid": std::process::id(), "uid": 0,
        })),
    }
}

/// The path of this process, hence of its children, in the v2 hierarchy.
fn own_cgroup() -> Value {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).map_or(Value::Null, Value::from)
}

/// The map of a JSON object.
pub(super) fn object(value: Value) -> serde_json::Map<String, Value> {
    if let Value::Object(map) = value { map } else { serde_json::Map::new() }
}
