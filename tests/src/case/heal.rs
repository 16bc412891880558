//! `heal`: real faults, a real policy, and an independent prober that says when the patient is well again.
//!
//! In: nothing. Out: a line per case with the time from the injection to health, split into detect, decide, act and
//! verify; an error at the first thing that is not as it should be.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use faultline::{clock::monotonic_ns, heal::systemd::Systemd};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{step, systemd::run};
use crate::{
    agent::{Agent, Ended, PATIENCE, after},
    inject::{self, child},
    private_systemd::PrivateSystemd,
    program,
};

/// How often the prober looks.
const PROBE: Duration = Duration::from_millis(10);
/// How often the unit case is repeated for a median.
const ROUNDS: usize = 9;

/// A folder for a policy, journals and whatever an agent leaves.
#[derive(Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Makes it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("faultline-heal-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A command of `faultline` whose journals are here.
    ///
    /// # Errors
    /// There is no program.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(program::faultline()?);
        command.args(words).env("STATE_DIRECTORY", &self.0).env("RUNTIME_DIRECTORY", &self.0);
        Ok(command)
    }

    /// An agent in mode `act` with this policy.
    ///
    /// # Errors
    /// It does not start.
    pub fn agent(&self, policy: &str, bus: Option<&str>) -> Result<Agent> {
        let file = self.0.join("policy.toml");
        fs::write(&file, policy).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = self.command(&["run", "--json", "--no-flight", "--config"])?;
        command.arg(&file).env("FAULTLINE_BUS", bus.unwrap_or("unix:path=/nonexistent"));
        Agent::start_command(command)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs every case that this machine can hold.
///
/// # Errors
/// The first that fails.
pub fn heal() -> Result<()> {
    let start = monotonic_ns();
    units(start)?;
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        oom_in_a_unit(start)?;
        three_ooms(start)?;
        bystanders(start)?;
    } else {
        step(start, "no machine of cgroup v2 alone: the cases of memory and of bystanders are left out");
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

const UNIT_PLANS: &str = r#"
[scope]
units = ["fl-*.service"]
[[plan]]
on = "process_crash"
entity = "fl-once-*.service"
steps = [{ verb = "restart-unit", verify_for = "300ms" }]
[[plan]]
on = "crash_loop"
entity = "fl-loop.service"
steps = [{ verb = "restart-unit", verify_for = "3s" }, { verb = "stop-unit", verify_for = "300ms" }]
[[plan]]
on = "oom_kill"
entity = "fl-oom.service"
steps = [{ verb = "restart-unit", verify_for = "300ms" }]
"#;

/// A crashed unit is restarted; one that cannot be helped is stopped.
fn units(start: u64) -> Result<()> {
    let manager = PrivateSystemd::start()?;
    let once: Vec<String> = (0..ROUNDS).map(|round| format!("fl-once-{round}.service")).collect();
    for unit in &once {
        manager.service(unit, "Restart=no", "exec sleep 1000\n")?;
        begin(&manager, unit)?;
    }
    let looping = "Restart=always\nRestartSec=100ms\nStartLimitIntervalSec=0";
    manager.service("fl-loop.service", looping, "sleep 0.05; exit 3\n")?;
    let home = Home::new("units")?;
    let mut agent = home.agent(&format!("{COMMON}{UNIT_PLANS}"), Some(&address(&manager)))?;
    let mut times = Vec::new();
    for unit in &once {
        times.push(crash_once(&manager, &mut agent, unit)?);
    }
    times.sort_by_key(|time| time.healthy_ns);
    let median = times[times.len() / 2];
    step(start, &format!("crashed units restarted: {ROUNDS} of {ROUNDS}, median {median}"));
    ensure!(median.healthy_ns < 1_000_000_000, "the median is not under a second");
    looping_unit(&manager, &mut agent)?;
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    only_on(&ended, "fl-")?;
    journal_tells(&home, &ended)?;
    step(start, "a unit in a crash loop was restarted, then stopped by plan; the journal tells the whole story");
    Ok(())
}

fn begin(manager: &PrivateSystemd, unit: &str) -> Result<()> {
    run(async { Ok(Systemd::connect(&manager.bus()).await?.restart(unit, PATIENCE).await.map(drop)?) })
        .with_context(|| format!("cannot start {unit}"))
}

/// From the injection to health.
#[derive(Clone, Copy, Debug)]
struct Mttr {
    detect_ns: u64,
    decide_ns: u64,
    act_ns: u64,
    verify_ns: u64,
    healthy_ns: u64,
}

impl std::fmt::Display for Mttr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        let (detect, decide, act, verify) =
            (ms(self.detect_ns), ms(self.decide_ns), ms(self.act_ns), ms(self.verify_ns));
        let total = ms(self.healthy_ns);
        write!(
            f,
            "MTTR {total:.1} ms (detect {detect:.2}, decide {decide:.2}, act {act:.1}; verified in {verify:.0} ms)"
        )
    }
}

fn number(line: &Value, key: &str) -> Result<u64> {
    line[key].as_u64().with_context(|| format!("no number {key} in {line}"))
}

/// The main process of a unit as the kernel shows it: alive, and what its script turns into.
fn main_process(manager: &PrivateSystemd, unit: &str) -> Option<u32> {
    let procs = manager.cgroup_of(&format!("/app.slice/{unit}")).join("cgroup.procs");
    let pid: u32 = fs::read_to_string(procs).ok()?.lines().next()?.parse().ok()?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (comm.trim() == "sleep").then_some(pid)
}

/// The prober: looks every 10 ms until it sees what is wanted, and says when that was.
fn probe<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<(T, u64)> {
    let deadline = after(PATIENCE);
    loop {
        if let Some(seen) = look() {
            return Ok((seen, monotonic_ns()));
        }
        ensure!(monotonic_ns() < deadline, "never seen: {what}");
        nix::poll::poll(&mut [], nix::poll::PollTimeout::try_from(PROBE)?).context("poll")?;
    }
}

fn crash_once(manager: &PrivateSystemd, agent: &mut Agent, unit: &str) -> Result<Mttr> {
    let (victim, _) = probe("its main process", || main_process(manager, unit))?;
    let injected = monotonic_ns();
    kill(Pid::from_raw(victim.cast_signed()), Signal::SIGSEGV)?;
    let again = probe("another main process", || main_process(manager, unit).filter(|pid| *pid != victim));
    let (_, healthy) = again.with_context(|| story(agent))?;
    healed(agent, unit, injected, healthy)
}

/// What the agent said, for an error.
fn story(agent: &mut Agent) -> String {
    let _ = agent.watch(Duration::from_millis(100));
    let lines: Vec<&str> = agent.lines.iter().map(|line| line.text.as_str()).collect();
    format!("{}\n{}", lines.join("\n"), agent.said())
}

/// The times of an action on a unit that recovered it.
fn healed(agent: &mut Agent, unit: &str, injected: u64, healthy: u64) -> Result<Mttr> {
    let recovered = |line: &Value| line["type"] == "action" && line["outcome"] == "recovered" && is_about(line, unit);
    let action = agent.wait_for(&format!("recovery of {unit}"), recovered)?;
    let verified = monotonic_ns();
    let fault = agent.wait_for("its fault", |line| line["type"] == "fault" && line["id"] == action["fault"])?;
    let decided = number(&fault, "opened_ns")? + number(&fault, "kernel_to_decision_ns")?;
    let (started, finished) = (number(&action, "started_ns")?, number(&action, "finished_ns")?);
    ensure!(decided > injected, "{unit}: an older fault");
    Ok(Mttr {
        detect_ns: decided - injected,
        decide_ns: started.saturating_sub(decided),
        act_ns: finished - started,
        verify_ns: verified.saturating_sub(finished),
        healthy_ns: healthy - injected,
    })
}

fn is_about(line: &Value, name: &str) -> bool {
    line["target"]["name"].as_str().is_some_and(|target| target.ends_with(name))
}

fn looping_unit(manager: &PrivateSystemd, agent: &mut Agent) -> Result<()> {
    begin(manager, "fl-loop.service")?;
    let outcome = |verb: &'static str, outcome: &'static str| {
        move |line: &Value| line["verb"] == verb && line["outcome"] == outcome && is_about(line, "fl-loop.service")
    };
    agent.wait_for("a restart that does not help", outcome("restart-unit", "failed"))?;
    agent.wait_for("a stop that does", outcome("stop-unit", "recovered"))?;
    let health = run(async { Ok(Systemd::connect(&manager.bus()).await?.health("fl-loop.service").await?) })?;
    ensure!(health.is_stopped(), "it still runs: {health:?}");
    Ok(())
}

/// A unit whose cgroup was OOM-killed is restarted.
fn oom_in_a_unit(start: u64) -> Result<()> {
    let manager = PrivateSystemd::start()?;
    let marker = manager.folder().join("hungry");
    let script = format!(
        "[ -e {0} ] && exec sleep 1000\nsleep 1; touch {0}; a=xxxxxxxxxxxxxxxx; while :; do a=$a$a; done\n",
        marker.display()
    );
    manager.service("fl-oom.service", "Restart=no\nMemoryMax=24M\nMemorySwapMax=0", &script)?;
    let home = Home::new("oom")?;
    let mut agent = home.agent(&format!("{COMMON}{UNIT_PLANS}"), Some(&address(&manager)))?;
    begin(&manager, "fl-oom.service")?;
    let (_, injected) = probe("its hunger", || marker.exists().then_some(()))?;
    let (_, healthy) = probe("a main process that sleeps", || {
        marker.exists().then(|| main_process(&manager, "fl-oom.service")).flatten()
    })?;
    let action = agent.wait_for("recovery after an OOM kill", |line| {
        line["verb"] == "restart-unit" && line["outcome"] == "recovered" && is_about(line, "fl-oom.service")
    })?;
    let took = (healthy - injected) as f64 / 1e6;
    ensure!(healthy - injected < 1_000_000_000, "it took {took:.0} ms");
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    only_on(&ended, "fl-")?;
    step(start, &format!("a unit that was OOM-killed was restarted in {took:.0} ms ({})", action["id"]));
    Ok(())
}

/// A cgroup with a process that should survive and some that the kernel will choose first. All have their memory from
/// the start: under the limit that the agent sets, nobody gets any more in a hurry.
struct Cage {
    folder: PathBuf,
    keeper: child::Resting,
    victims: Vec<child::Resting>,
}

/// What the keeper and each victim have, bytes.
const KEEPER: usize = 24 << 20;
const VICTIM: usize = 8 << 20;

impl Cage {
    fn new(name: &str) -> Result<Self> {
        let folder = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        let keeper = child::resting(KEEPER, &folder, -900)?;
        let victims = [700, 800, 900].map(|score| child::resting(VICTIM, &folder, score));
        Ok(Self { folder, keeper, victims: victims.into_iter().collect::<Result<_>>()? })
    }

    /// One OOM kill: the limit goes below what they have together.
    fn starve(&mut self) -> Result<()> {
        let victim = self.victims.pop().context("nobody is left to starve")?;
        let usage = fs::read_to_string(self.folder.join("memory.current"))?;
        let usage: usize = usage.trim().parse().context("memory.current")?;
        fs::write(self.folder.join("memory.max"), (usage - (1 << 20)).to_string()).context("memory.max")?;
        victim.wait()?;
        fs::write(self.folder.join("memory.max"), "max").context("memory.max")
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
fn three_ooms(start: u64) -> Result<()> {
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
    cage.starve()?;
    agent.wait_for("a limit", executed("limit-cgroup"))?;
    let high = fs::read_to_string(cage.folder.join("memory.high"))?;
    ensure!(high.trim() != "max", "memory.high was not set");
    cage.starve()?;
    agent.wait_for("a freeze", executed("freeze-cgroup"))?;
    agent.wait_for("its thaw", executed("thaw-cgroup"))?;
    ensure!(cage.keeper.is_alive(), "the keeper must live until the last step: {}", story(&mut agent));
    cage.starve()?;
    agent.wait_for("a kill that helps", |line| line["verb"] == "kill" && line["outcome"] == "recovered")?;
    ensure!(!cage.keeper.is_alive(), "nobody is left");
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    only_on(&ended, "fl-hog")?;
    let high = fs::read_to_string(cage.folder.join("memory.high"))?;
    ensure!(high.trim() == "max", "the guardian takes the limit back at the end, not: {high}");
    journal_tells(&home, &ended)?;
    step(start, "a cgroup that was OOM-killed three times was limited, frozen, then killed; the limit was taken back");
    Ok(())
}

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
