//! Memory that runs out. In: a service manager of one's own, and a cgroup. Out: how soon a unit that was OOM-killed runs
//! again, and a cgroup that is limited, then frozen, then killed as its OOM kills go on.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use nix::{
    fcntl::OFlag,
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::Value;

use super::{
    COMMON, Home, address, journal_tells,
    mttr::{Mttr, healed, is_about, median, number, probe, story},
    only_on,
    units::{begin, main_process},
};
use crate::{agent::Agent, case::step, inject::child, private_systemd::PrivateSystemd};

/// How often the OOM kill of a unit is repeated for a median.
const ROUNDS: usize = 5;

const UNIT_PLAN: &str = r#"
[scope]
units = ["fl-*.service"]
[[plan]]
on = "oom_kill"
entity = "fl-oom-*.service"
steps = [{ verb = "restart-unit", verify_for = "300ms" }]
"#;

/// Units whose cgroup was OOM-killed are restarted.
pub(super) fn oom_in_a_unit(start: u64) -> Result<()> {
    let manager = PrivateSystemd::start()?;
    let home = Home::new("oom")?;
    let mut agent = home.agent(&format!("{COMMON}{UNIT_PLAN}"), Some(&address(&manager)))?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        times.push(starve_once(&manager, &mut agent, &format!("fl-oom-{round}.service"))?);
    }
    let median = median(times)?;
    step(start, &format!("units that were OOM-killed restarted: {ROUNDS} of {ROUNDS}, median {median}"));
    ensure!(median.healthy_ns < 1_000_000_000, "the median is not under a second");
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    only_on(&ended, "fl-")?;
    journal_tells(&home, &ended)
}

/// A unit that waits at a gate, eats until it is killed once let through, and rests the next time. The injection is the
/// moment the gate opens: its hunger begins.
fn starve_once(manager: &PrivateSystemd, agent: &mut Agent, unit: &str) -> Result<Mttr> {
    let (gate, fed) = (manager.folder().join(format!("{unit}.gate")), manager.folder().join(format!("{unit}.fed")));
    mkfifo(&gate, Mode::S_IRUSR | Mode::S_IWUSR).context("mkfifo")?;
    let script = format!(
        "[ -e {fed} ] && exec sleep 1000\ntouch {fed}; read go < {gate}; a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done\n",
        fed = fed.display(),
        gate = gate.display()
    );
    manager.service(unit, "Restart=no\nMemoryMax=24M\nMemorySwapMax=0", &script)?;
    begin(manager, unit)?;
    // It opens once the unit reads there; until then ENXIO.
    let open = || File::options().write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&gate).ok();
    let (mut gate, _) = probe("the unit at its gate", open)?;
    let injected = monotonic_ns();
    gate.write_all(b"\n").context("the gate")?;
    let again = probe("a main process that sleeps", || main_process(manager, unit));
    let (_, healthy) = again.with_context(|| story(agent))?;
    healed(agent, unit, injected, healthy)
}

/// A cgroup with a process that should survive and some that the kernel takes, one at a time. All have their memory from
/// the start: under the limit that the agent sets, nobody gets any more in a hurry.
struct Cage {
    folder: PathBuf,
    keeper: child::Resting,
    victims: Vec<child::Resting>,
}

/// `oom_score_adj` of who is not to be killed by the kernel; and of the one who is.
const SPARED: i32 = -1000;
const CHOSEN: i32 = 1000;
/// What the keeper and each victim have, bytes.
const KEEPER: usize = 24 << 20;
const VICTIM: usize = 8 << 20;
/// One for each step of the plan.
const VICTIMS: usize = 3;

impl Cage {
    fn new(name: &str) -> Result<Self> {
        let folder = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        let keeper = child::resting(KEEPER, &folder, SPARED)?;
        let victims = (0..VICTIMS).map(|_| child::resting(VICTIM, &folder, SPARED)).collect::<Result<_>>()?;
        Ok(Self { folder, keeper, victims })
    }

    /// One OOM kill: the limit goes below what they have together. Returns when, CLOCK_MONOTONIC ns.
    ///
    /// A victim that is slow to go counts as gone before its memory is free (`exit_mmap`), so that the kernel would take
    /// another; that is why there is none that it may take.
    fn starve(&mut self) -> Result<u64> {
        let victim = self.victims.pop().context("nobody is left to starve")?;
        victim.score(CHOSEN)?;
        let usage = fs::read_to_string(self.folder.join("memory.current"))?;
        let usage: usize = usage.trim().parse().context("memory.current")?;
        let injected = monotonic_ns();
        fs::write(self.folder.join("memory.max"), (usage - (1 << 20)).to_string()).context("memory.max")?;
        victim.wait()?;
        fs::write(self.folder.join("memory.max"), "max").context("memory.max")?;
        Ok(injected)
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.freeze"), "0");
        self.victims.drain(..).for_each(|victim| victim.end());
        self.keeper.end();
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A cgroup that is OOM-killed three times is limited, frozen for a while, then killed.
pub(super) fn three_ooms(start: u64) -> Result<()> {
    let mut cage = Cage::new("fl-hog")?;
    let home = Home::new("hog")?;
    let plan = r#"
[scope]
cgroups = ["/fl-hog"]
[[plan]]
on = "oom_kill"
entity = "/fl-hog"
steps = [
  { verb = "limit-cgroup", memory_percent = 100, verify_for = "20s" },
  { verb = "freeze-cgroup", hold = "300ms", verify_for = "20s" },
  { verb = "kill", verify_for = "2s" },
]
"#;
    let mut agent = home.agent(&format!("{COMMON}{plan}"), None)?;
    let executed = |verb: &'static str| {
        move |line: &Value| line["verb"] == verb && line["decision"] == "executed" && is_about(line, "/fl-hog")
    };
    let injected = cage.starve()?;
    let limited = told(&agent.wait_for("a limit", executed("limit-cgroup"))?, injected)?;
    let high = fs::read_to_string(cage.folder.join("memory.high"))?;
    ensure!(high.trim() != "max", "memory.high was not set");
    let injected = cage.starve()?;
    let frozen = told(&agent.wait_for("a freeze", executed("freeze-cgroup"))?, injected)?;
    agent.wait_for("its thaw", executed("thaw-cgroup"))?;
    ensure!(cage.keeper.is_alive(), "the keeper must live until the last step: {}", story(&mut agent));
    let injected = cage.starve()?;
    let helps = |line: &Value| line["verb"] == "kill" && line["outcome"] == "recovered";
    let killed = told(&agent.wait_for("a kill that helps", helps)?, injected)?;
    ensure!(!cage.keeper.is_alive(), "nobody is left");
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    only_on(&ended, "fl-hog")?;
    let high = fs::read_to_string(cage.folder.join("memory.high"))?;
    ensure!(high.trim() == "max", "the guardian takes the limit back at the end, not: {high}");
    journal_tells(&home, &ended)?;
    step(start, "a cgroup that was OOM-killed three times was limited, frozen, then killed; the limit was taken back:");
    [limited, frozen, killed].iter().for_each(|told| step(start, &format!("  {told}")));
    Ok(())
}

/// When an action on the cage began, from the squeeze on: the kill by the kernel, detection, decision and the way to the
/// hand; and how long it took.
fn told(action: &Value, injected: u64) -> Result<String> {
    let (started, finished) = (number(action, "started_ns")?, number(action, "finished_ns")?);
    ensure!(started > injected, "of an earlier kill: {action}");
    let (after, took) = ((started - injected) as f64 / 1e6, (finished - started) as f64 / 1e6);
    Ok(format!(
        "{} begun {after:.2} ms after the squeeze, done in {took:.2} ms",
        action["verb"].as_str().unwrap_or("?")
    ))
}
