//! Loss, proved: a generator counts its own events while the agent is stalled on purpose, and every one of
//! them must be in the agent's books afterwards.
//!
//! In: a number of events and the `faultline` binary. Out: one line a run and exit status 0 if, exactly,
//! `seen + missed` is the generator's count, `seen = submitted + filtered + limited + ring_full`, and
//! `submitted = decoded + malformed`. Three runs: one fills the ring, one runs into the rate limit, and one
//! lets two threads of each process die at the same moment while the agent is told that the kernel does not
//! say which thread was the last: each process must still be seen once.
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
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use faultline_tests::{lock, program};
use serde_json::Value;

/// Runs that may be disturbed before the machine is called too busy.
const TRIES: u32 = 8;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["generate", count] => count.parse().context("a count").and_then(generate),
        ["generate-pairs", count] => count.parse().context("a count").and_then(generate_pairs),
        [] => prove(1_000_000),
        [count] => count.parse().context("a count").and_then(prove),
        _ => Err(anyhow::anyhow!("usage: faultline-loss [COUNT]")),
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

/// Makes `count` processes of two threads that end at the same moment, each with status 1.
fn generate_pairs(count: u64) -> Result<()> {
    // SAFETY: as in `generate`.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut stack = vec![0u128; 4096];
    for made in 0..count {
        // SAFETY: this process has one thread, so its child may go on as usual.
        match unsafe { libc::fork() } {
            0 => end_together(&mut stack),
            pid if pid > 0 => {
                // Reaped by the kernel: returns with ECHILD once the child is gone.
                // SAFETY: a null status pointer is allowed.
                unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            }
            _ => bail!("fork {made}: {}", std::io::Error::last_os_error()),
        }
    }
    writeln!(std::io::stdout(), "{count}")?;
    Ok(())
}

/// Starts a second thread, lets both go at once, and ends this one; never returns.
fn end_together(stack: &mut [u128]) -> ! {
    static READY: AtomicU32 = AtomicU32::new(0);
    extern "C" fn thread(_: *mut libc::c_void) -> libc::c_int {
        meet(&READY);
        // SAFETY: ends this thread only, touches no memory.
        unsafe { libc::syscall(libc::SYS_exit, 1) };
        1
    }
    fn meet(ready: &AtomicU32) {
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::SeqCst) < 2 {
            std::hint::spin_loop();
        }
    }
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    let top = stack.as_mut_ptr_range().end.cast::<libc::c_void>();
    // SAFETY: the thread has a stack of its own and uses nothing but atomics and a system call.
    let tid = unsafe { libc::clone(thread, top, flags, std::ptr::null_mut()) };
    if tid > 0 {
        meet(&READY);
    }
    // SAFETY: ends this thread only.
    unsafe { libc::syscall(libc::SYS_exit, 1) };
    unreachable!("exit(2) does not return")
}

struct Scenario {
    name: &'static str,
    config: &'static str,
    /// Further arguments of the agent.
    args: &'static [&'static str],
    /// What the generator is told to do.
    generate: &'static str,
    /// Tasks born for each process it counts.
    births: u64,
    /// The share of the events that this run makes.
    share: u64,
    /// The counter that must have moved.
    must_count: &'static str,
}

const SCENARIOS: [Scenario; 3] = [
    Scenario {
        name: "ring full",
        args: &[],
        generate: "generate",
        births: 1,
        share: 1,
        config: "[limits]\nexit_per_executable = 10000000\n[output]\nevents = false\n",
        must_count: "ring_full",
    },
    Scenario {
        name: "rate limited",
        args: &[],
        generate: "generate",
        births: 1,
        share: 1,
        config: "[output]\nevents = false\n",
        must_count: "limited",
    },
    Scenario {
        name: "two threads end together",
        args: &["--without", "arg_group_dead"],
        generate: "generate-pairs",
        births: 2,
        share: 50,
        config: "[output]\nevents = false\n",
        must_count: "seen",
    },
];

fn prove(count: u64) -> Result<()> {
    let agent = program::faultline()?;
    let _alone = lock::machine()?;
    for scenario in &SCENARIOS {
        let mut tries = 0..TRIES;
        while !run(scenario, count / scenario.share, agent).with_context(|| scenario.name.to_owned())? {
            ensure!(tries.next().is_some(), "{}: the machine is never quiet for long enough", scenario.name);
        }
    }
    Ok(())
}

/// One run; `false` when something else was born or died meanwhile.
fn run(scenario: &Scenario, count: u64, agent: &Path) -> Result<bool> {
    let config = std::env::temp_dir().join(format!("faultline-loss-{}.toml", std::process::id()));
    fs::write(&config, scenario.config)?;
    let (mut agent, mut lines) = start(agent, &config, scenario.args)?;
    let pid = nix::unistd::Pid::from_raw(agent.id() as i32);
    let (born, alive) = (forks()?, pids()?);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP)?;
    let made = generator(scenario.generate, count);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGCONT)?;
    // The generator itself is one more process, which ends well.
    let quiet = forks()? - born == count * scenario.births + 1 && alive.is_subset(&pids()?);
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
fn start(agent: &Path, config: &PathBuf, args: &[&str]) -> Result<(Child, BufReader<ChildStdout>)> {
    let mut child = Command::new(agent)
        .args(["run", "--mode", "observe", "--json", "--no-flight", "--config"])
        .arg(config)
        .args(args)
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

fn generator(role: &str, count: u64) -> Result<u64> {
    let output = Command::new(std::env::current_exe()?).args([role, &count.to_string()]).output()?;
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
        scenario.name,
        sensor["seen"],
        sensor["submitted"],
        sensor["filtered"],
        sensor["limited"],
        sensor["ring_full"],
        sensor["missed"],
        sensor["decoded"],
        sensor["malformed"],
    );
    writeln!(std::io::stdout(), "{line}")?;
    ensure!(of("seen")? + missed == made, "seen + missed is not what the generator made: {line}");
    let exits = of("submitted")? + of("filtered")? + of("limited")? + of("ring_full")?;
    ensure!(of("seen")? == exits, "seen is not submitted + filtered + limited + ring_full: {line}");
    ensure!(of("submitted")? == of("decoded")? + of("malformed")?, "submitted is not decoded + malformed: {line}");
    ensure!(of(scenario.must_count)? > 0, "{} did not move: {line}", scenario.must_count);
    Ok(())
}
