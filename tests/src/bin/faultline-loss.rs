//! Loss, proved: a generator counts its own events while the agent is stalled on purpose, and every one of
//! them must be in the agent's books afterwards.
//!
//! In: a number of events and the `faultline` binary. Out: one line a run and exit status 0 if, exactly,
//! `seen + missed` is the generator's count, `seen = submitted + filtered + limited + ring_full`, and
//! `submitted = decoded + malformed`. Two runs: one fills the ring, one runs into the rate limit.
//!
//! The agent sees the whole machine, so a run counts only if nothing else was born or died meanwhile
//! (`processes` of /proc/stat, the set of pids in /proc); otherwise it is repeated.
#![expect(unsafe_code, reason = "the generator forks a million times by clone(2) on a stack of its own")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Runs that may be disturbed before the machine is called too busy.
const TRIES: u32 = 8;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["generate", count] => count.parse().context("a count").and_then(generate),
        [] => prove(1_000_000, Path::new("faultline")),
        [count] => count.parse().context("a count").and_then(|n| prove(n, Path::new("faultline"))),
        [count, agent] => count.parse().context("a count").and_then(|n| prove(n, Path::new(agent))),
        _ => Err(anyhow::anyhow!("usage: faultline-loss [COUNT [PATH-OF-FAULTLINE]]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "faultline-loss: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Makes `count` children that end with status 1, and prints how many it made.
fn generate(count: u64) -> Result<()> {
    extern "C" fn child(_: *mut libc::c_void) -> libc::c_int {
        1
    }
    // Ignored, so that the kernel reaps them.
    // SAFETY: sets a disposition of this single-threaded process.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut stack = vec![0u128; 4096];
    let top = stack.as_mut_ptr_range().end.cast::<libc::c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut made = 0;
    for _ in 0..count {
        // SAFETY: the child runs on its own stack and returns at once; CLONE_VFORK holds us until it is gone.
        let pid = unsafe { libc::clone(child, top, flags, std::ptr::null_mut()) };
        ensure!(pid > 0, "clone: {}", std::io::Error::last_os_error());
        made += 1;
    }
    writeln!(std::io::stdout(), "{made}")?;
    Ok(())
}

struct Scenario {
    name: &'static str,
    config: &'static str,
    /// The counter that must have moved.
    must_count: &'static str,
}

const SCENARIOS: [Scenario; 2] = [
    Scenario {
        name: "ring full",
        config: "[limits]\nexit_per_executable = 10000000\n[output]\nevents = false\n",
        must_count: "ring_full",
    },
    Scenario { name: "rate limited", config: "[output]\nevents = false\n", must_count: "limited" },
];

fn prove(count: u64, agent: &Path) -> Result<()> {
    for scenario in &SCENARIOS {
        let mut tries = 0..TRIES;
        while !run(scenario, count, agent).with_context(|| scenario.name.to_owned())? {
            ensure!(tries.next().is_some(), "{}: the machine is never quiet for long enough", scenario.name);
        }
    }
    Ok(())
}

/// One run; `false` when something else was born or died meanwhile.
fn run(scenario: &Scenario, count: u64, agent: &Path) -> Result<bool> {
    let config = std::env::temp_dir().join(format!("faultline-loss-{}.toml", std::process::id()));
    fs::write(&config, scenario.config)?;
    let (mut agent, mut lines) = start(agent, &config)?;
    let pid = nix::unistd::Pid::from_raw(agent.id() as i32);
    let (born, alive) = (forks()?, pids()?);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP)?;
    let made = generator(count);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT)?;
    // The generator itself is one more process, which ends well.
    let quiet = forks()? - born == count + 1 && alive.is_subset(&pids()?);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM)?;
    let summary = summary(&mut lines)?;
    ensure!(agent.wait()?.success(), "the agent failed");
    let _ = fs::remove_file(&config);
    let made = made?;
    if !quiet {
        return Ok(false);
    }
    check(scenario, made + 1, &summary["sensors"]["process_exit"])?;
    Ok(true)
}

/// Starts the agent and waits until all its sensors have reported their health.
fn start(agent: &Path, config: &PathBuf) -> Result<(Child, BufReader<ChildStdout>)> {
    let mut child = Command::new(agent)
        .args(["run", "--mode", "observe", "--json", "--config"])
        .arg(config)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", agent.display()))?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
    for _ in 0..4 {
        let line = next(&mut lines)?.context("the agent ended before it was ready")?;
        ensure!(line["type"] == "health", "not a health line: {line}");
    }
    Ok((child, lines))
}

fn next(lines: &mut BufReader<ChildStdout>) -> Result<Option<Value>> {
    let mut text = String::new();
    if lines.read_line(&mut text)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?))
}

fn summary(lines: &mut BufReader<ChildStdout>) -> Result<Value> {
    while let Some(line) = next(lines)? {
        if line["type"] == "summary" {
            return Ok(line);
        }
    }
    bail!("the agent ended without a summary")
}

fn generator(count: u64) -> Result<u64> {
    let output = Command::new(std::env::current_exe()?).args(["generate", &count.to_string()]).output()?;
    ensure!(output.status.success(), "generator: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Processes and threads ever born on this machine.
fn forks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find_map(|l| l.strip_prefix("processes ")).context("no `processes` in /proc/stat")?;
    Ok(line.trim().parse()?)
}

fn pids() -> Result<BTreeSet<u32>> {
    let names = fs::read_dir("/proc")?.flatten().map(|e| e.file_name());
    Ok(names.filter_map(|n| n.to_str()?.parse().ok()).collect())
}

fn check(scenario: &Scenario, made: u64, sensor: &Value) -> Result<()> {
    let of = |key: &str| sensor[key].as_u64().with_context(|| format!("{key} is not a number in {sensor}"));
    let missed = of("missed").unwrap_or(0);
    let line = format!(
        "{}: made {made}, seen {}, submitted {}, filtered {}, limited {}, ring_full {}, missed {}, decoded {}, malformed {}",
        scenario.name, sensor["seen"], sensor["submitted"], sensor["filtered"], sensor["limited"], sensor["ring_full"],
        sensor["missed"], sensor["decoded"], sensor["malformed"],
    );
    writeln!(std::io::stdout(), "{line}")?;
    ensure!(of("seen")? + missed == made, "seen + missed is not what the generator made: {line}");
    let exits = of("submitted")? + of("filtered")? + of("limited")? + of("ring_full")?;
    ensure!(of("seen")? == exits, "seen is not submitted + filtered + limited + ring_full: {line}");
    ensure!(of("submitted")? == of("decoded")? + of("malformed")?, "submitted is not decoded + malformed: {line}");
    ensure!(of(scenario.must_count)? > 0, "{} did not move: {line}", scenario.must_count);
    Ok(())
}
