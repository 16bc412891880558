//! `guardian`: agents killed at random points of an action, and what is left of it. In: how many. Out: how many died while
//! something was frozen or limited, and how long that lasted at most; an error at the first thing that is not as before.
//!
//! Each round draws a freeze (by the reactor, microseconds) or a limit of memory and CPU (by the executor, with a synced
//! journal), lets a real agent do it, and kills that agent between the injection and twice the time which the action takes
//! here: that is about half of the kills before anything is changed, in the journal's two writes or between two files.
//! How long it takes is learned first, from agents that are killed right after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use faultline::clock::monotonic_ns;
use nix::{
    errno::Errno,
    poll::{PollTimeout, poll},
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use serde_json::Value;

use super::{heal::Home, step};
use crate::{
    agent::{PATIENCE, after},
    patient::Alone,
};

/// Within this time the guardian takes back what a dead agent held, ns.
const GUARDIAN_NS: u64 = 1_000_000_000;
/// Agents per action from whose work its duration is learned.
const LESSONS: usize = 3;
/// How often files and processes are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// What an agent is killed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Freeze,
    Limit,
}

impl Act {
    fn verb(self) -> &'static str {
        match self {
            Self::Freeze => "freeze-cgroup",
            Self::Limit => "limit-cgroup",
        }
    }

    fn step(self) -> &'static str {
        match self {
            Self::Freeze => r#"{ verb = "freeze-cgroup", hold = "60s", verify_for = "1s" }"#,
            Self::Limit => r#"{ verb = "limit-cgroup", memory_percent = 100, cpu_percent = 50, verify_for = "20s" }"#,
        }
    }

    fn policy(self, scope: &str) -> String {
        format!(
            "mode = \"act\"\n[scope]\ncgroups = [{scope}]\n[[plan]]\non = \"process_crash\"\nsteps = [{}]\n\
            [budget.blast_radius]\nshare_percent = 100\n[output]\nevents = false\n",
            self.step()
        )
    }
}

/// When an agent is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// As soon as something is changed.
    Changed,
    /// So long after the injection, ns.
    After(u64),
}

/// One agent's life and death.
#[derive(Clone, Copy, Debug)]
struct Round {
    act: Act,
    agent: Pid,
    /// From the injection to the kill, ns.
    lived_ns: u64,
    /// Something was frozen or limited when it was killed, or the moment it died.
    held: bool,
    /// From the kill until everything was as before, ns.
    restored_ns: u64,
}

/// What a campaign came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Agents killed at random.
    pub kills: u64,
    /// Of these, while the patient was frozen.
    pub frozen: u64,
    /// While it was limited.
    pub limited: u64,
    /// After an action was written down and before its end was.
    pub amid: u64,
    /// The longest time from a kill to everything as before, ns.
    pub slowest_ns: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kills, frozen, limited, amid, slowest_ns } = self;
        let slowest = *slowest_ns as f64 / 1e6;
        write!(
            f,
            "{kills} agents killed: {frozen} while frozen, {limited} while limited, {amid} amid an action; \
            slowest restoration {slowest:.1} ms"
        )
    }
}

/// The case in a VM, where limits must work.
///
/// # Errors
/// As [`campaign`]; or no agent was killed while it held something of each kind.
pub fn guardian(kills: u64) -> Result<()> {
    let start = monotonic_ns();
    let tally = campaign(kills, true)?;
    ensure!(kills < 20 || (tally.frozen > 0 && tally.limited > 0), "the kills missed what they were aimed at: {tally}");
    step(start, &tally.to_string());
    Ok(())
}

/// Kills so many agents; without `limits`, only in freezes.
///
/// # Errors
/// Something was not taken back in time or not exactly, was done twice, or the journal tells another story.
pub fn campaign(kills: u64, limits: bool) -> Result<Tally> {
    let mut scene = Scene::new(limits)?;
    let acts: &[Act] = if limits { &[Act::Freeze, Act::Limit] } else { &[Act::Freeze] };
    let mut usual = Vec::new();
    for act in acts {
        usual.push((*act, scene.learn(*act)?));
    }
    let lessons = scene.rounds.len();
    for _ in 0..kills {
        let (act, usual_ns) = usual[scene.draw(usual.len() as u64) as usize];
        let moment = Moment::After(scene.draw(usual_ns * 5 / 2));
        scene.round(act, moment)?;
    }
    let entries = scene.entries()?;
    let amid = whole_story(&scene.rounds, &entries)?;
    let random = &scene.rounds[lessons..];
    let held = |act| random.iter().filter(|round| round.held && round.act == act).count() as u64;
    Ok(Tally {
        kills,
        frozen: held(Act::Freeze),
        limited: held(Act::Limit),
        amid: random.iter().filter(|round| amid.contains(&round.agent)).count() as u64,
        slowest_ns: random.iter().map(|round| round.restored_ns).max().unwrap_or(0),
    })
}

/// The patient of all rounds, and their journals.
struct Scene {
    patient: Alone,
    home: Home,
    before: Vec<(&'static str, String)>,
    rounds: Vec<Round>,
    random: u64,
}

impl Scene {
    fn new(limits: bool) -> Result<Self> {
        // An orphaned guardian becomes ours to wait for.
        prctl::set_child_subreaper(true).context("cannot become a reaper")?;
        let patient = if limits { Alone::with_limits("guardian")? } else { Alone::new("guardian")? };
        let (home, before) = (Home::new("guardian")?, patient.values());
        ensure!(before.len() == if limits { 3 } else { 1 }, "what can be changed of the patient: {before:?}");
        Ok(Self { patient, home, before, rounds: Vec::new(), random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// A number below `end`: Knuth's linear congruential generator, of which the low bits are no good.
    fn draw(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % end.max(1)
    }

    /// How long the action usually takes from the injection on, ns.
    fn learn(&mut self, act: Act) -> Result<u64> {
        let mut took = Vec::new();
        for _ in 0..LESSONS {
            let round = self.round(act, Moment::Changed)?;
            ensure!(round.held, "it was seen changed, and then it was not");
            took.push(round.lived_ns);
        }
        took.sort_unstable();
        Ok(took[LESSONS / 2])
    }

    fn is_as_before(&self) -> bool {
        self.patient.values() == self.before
    }

    fn round(&mut self, act: Act, moment: Moment) -> Result<Round> {
        let agent = self.home.agent(&act.policy(&self.patient.scope()), None)?;
        let guardian = guardian_of(agent.pid())?;
        ensure!(self.is_as_before(), "an agent did something at its start: {:?}", self.patient.values());
        let injected = monotonic_ns();
        let mut struck = self.patient.strike()?;
        self.wait_until(moment, injected).with_context(|| agent.said())?;
        kill(agent.pid(), Signal::SIGKILL)?;
        let killed = monotonic_ns();
        let (held, restored_ns) = self.restoration(agent.pid(), killed)?;
        struck.wait()?;
        let round = Round { act, agent: agent.pid(), lived_ns: killed - injected, held, restored_ns };
        wait_for_end(guardian)?;
        drop(agent);
        ensure!(self.is_as_before(), "not as before: {:?}", self.patient.values());
        self.nothing_is_left()?;
        ensure!(self.patient.is_alive(), "somebody killed the patient");
        self.rounds.push(round);
        Ok(round)
    }

    fn wait_until(&self, moment: Moment, injected: u64) -> Result<()> {
        let deadline = after(PATIENCE);
        loop {
            match moment {
                Moment::After(ns) if monotonic_ns() >= injected + ns => return Ok(()),
                Moment::Changed if !self.is_as_before() => return Ok(()),
                _ => ensure!(monotonic_ns() < deadline, "nothing was changed"),
            }
            std::hint::spin_loop();
        }
    }

    /// Whether something was held at the end, and how long after the kill it was taken back.
    fn restoration(&self, agent: Pid, killed: u64) -> Result<(bool, u64)> {
        let (mut held, mut until) = (false, killed);
        loop {
            // First whether it can still change anything, then whether anything is changed.
            let dead = is_dead(agent)?;
            if !self.is_as_before() {
                (held, until) = (true, monotonic_ns());
                ensure!(until - killed < GUARDIAN_NS, "after a second: {:?}", self.patient.values());
            } else if dead {
                return Ok((held, until - killed));
            }
            poll(&mut [], PollTimeout::try_from(LOOK)?)?;
        }
    }

    /// `faultline release` finds nothing that the guardian left.
    fn nothing_is_left(&self) -> Result<()> {
        let done = self.home.command(&["release"])?.output()?;
        let said = String::from_utf8_lossy(&done.stdout);
        ensure!(
            done.status.success() && said == "nothing was left behind\n",
            "release: {said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    /// What `faultline actions` lists.
    fn entries(&self) -> Result<Vec<Value>> {
        let listed = self.home.command(&["actions", "--json"])?.output()?;
        ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8(listed.stdout)?;
        Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
    }
}

/// Each agent did at most one thing, the one it was to do, and whatever one held its guardian took back. Returns who died
/// amid an action.
fn whole_story(rounds: &[Round], entries: &[Value]) -> Result<BTreeSet<Pid>> {
    let mut told: BTreeMap<i64, &Value> = BTreeMap::new();
    for entry in entries {
        ensure!(entry["state"] != "half_done", "half-done: {entry}");
        let agent = entry["agent_pid"].as_i64().with_context(|| format!("no agent: {entry}"))?;
        ensure!(told.insert(agent, entry).is_none(), "one agent, one crash, and yet a second action: {entry}");
    }
    let mut amid = BTreeSet::new();
    for round in rounds {
        let Some(entry) = told.remove(&i64::from(round.agent.as_raw())) else {
            ensure!(!round.held, "not in the journal: {round:?}");
            continue;
        };
        ensure!(entry["verb"] == round.act.verb(), "{round:?}: {entry}");
        let settled = &entry["settled"];
        let back = settled["restored"].as_array().is_some_and(|all| all.iter().any(|one| one == "restored"));
        ensure!(!round.held || (back && settled["by"] == "guardian"), "{round:?} was not taken back: {entry}");
        if entry["finished_ns"].is_null() && entry["decision"] != "refused" {
            amid.insert(round.agent);
        }
    }
    ensure!(told.is_empty(), "somebody else acted: {told:?}");
    Ok(amid)
}

/// The child of an agent that outlives it.
fn guardian_of(agent: Pid) -> Result<Pid> {
    let deadline = after(PATIENCE);
    let parent = agent.to_string();
    while monotonic_ns() < deadline {
        for entry in fs::read_dir("/proc")?.flatten() {
            // `PID (NAME) STATE PARENT ...`; a process may go while it is looked at.
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let found =
                stat.split_once(" (faultline-guard) ").filter(|(_, rest)| rest.split(' ').nth(1) == Some(&parent));
            if let Some((pid, _)) = found {
                return Ok(Pid::from_raw(pid.parse().context("a pid")?));
            }
        }
        poll(&mut [], PollTimeout::try_from(LOOK)?)?;
    }
    bail!("agent {agent} has no guardian")
}

/// Whether a child of ours has ended, its last thread included; it stays to be waited for.
fn is_dead(child: Pid) -> Result<bool> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    Ok(waitid(Id::Pid(child), flags).context("the agent")? != WaitStatus::StillAlive)
}

/// Waits for a guardian, whose agent is dead.
fn wait_for_end(guardian: Pid) -> Result<()> {
    let deadline = after(PATIENCE);
    loop {
        match waitpid(guardian, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(other) => bail!("the guardian ended with {other:?}"),
            Err(Errno::ECHILD) => bail!("the guardian is nobody's child"),
            Err(errno) => return Err(errno).context("the guardian"),
        }
        ensure!(monotonic_ns() < deadline, "the guardian does not end");
        poll(&mut [], PollTimeout::try_from(LOOK)?)?;
    }
}
