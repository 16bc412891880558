//! The hands of a real agent on this machine, as root, in throw-away cgroups: what is done, what is refused and why,
//! and what is taken back when the agent dies.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use faultline::clock::monotonic_ns;
use faultline_tests::{
    agent::{self, Agent},
    case::heal::Home,
    lock,
    patient::{Patient, Ward},
};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

/// Within this time the guardian takes back what a dead agent held.
const GUARDIAN_NS: u64 = 1_000_000_000;

/// A policy whose only variable parts are the scope and the plan.
fn policy(scope: &str, plan: &str) -> String {
    format!(
        "mode = \"act\"\n[scope]\ncgroups = [{scope}]\n[[plan]]\non = \"process_crash\"\nsteps = [{plan}]\n\
        [budget]\nactions = 500\ncooldown = \"1ms\"\n[budget.blast_radius]\ncount = 100\nshare_percent = 100\n\
        [faults]\nclear_after = \"1s\"\nclose_after = \"1s\"\n[output]\nevents = false\n"
    )
}

/// A patient in a ward of its own.
struct Alone {
    patient: Patient,
    ward: Ward,
}

impl Alone {
    fn new(name: &str) -> Result<Self> {
        let ward = Ward::new(&format!("hands-{name}"))?;
        Ok(Self { patient: ward.patient("patient.service")?, ward })
    }

    /// As a policy names it.
    fn scope(&self) -> String {
        format!("\"{}\"", self.ward.scope())
    }
}

impl std::ops::Deref for Alone {
    type Target = Patient;

    fn deref(&self) -> &Patient {
        &self.patient
    }
}

impl std::ops::DerefMut for Alone {
    fn deref_mut(&mut self) -> &mut Patient {
        &mut self.patient
    }
}

fn machine(test: &str) -> Option<lock::Machine> {
    lock::is_root(test).then(|| lock::machine().unwrap())
}

fn is_action(line: &Value, decision: &str, reason: Option<&str>) -> bool {
    line["type"] == "action" && line["decision"] == decision && reason.is_none_or(|reason| line["reason"] == reason)
}

#[test]
fn a_crash_in_scope_is_answered_and_one_outside_is_refused() {
    let Some(_machine) = machine("a_crash_in_scope_is_answered_and_one_outside_is_refused") else { return };
    answered().unwrap();
}

fn answered() -> Result<()> {
    let kill_it = "{ verb = \"kill\", verify_for = \"200ms\" }";
    let (mut patient, home) = (Alone::new("scope")?, Home::new("scope")?);
    // The same fault under an empty scope: the harm that this brake prevents is the kill further down.
    for (scope, reason) in [(String::new(), "out_of_scope"), ("\"/fl-elsewhere\"".into(), "out_of_scope")] {
        let mut agent = home.agent(&policy(&scope, kill_it), None)?;
        patient.crash()?;
        agent.wait_for(reason, |line| is_action(line, "refused", Some(reason)))?;
        let ended = agent.stop(Signal::SIGTERM)?;
        ensure!(ended.lines.iter().all(|line| line.value["decision"] != "executed"), "{:?}", ended.lines);
        ensure!(patient.is_alive(), "somebody outside the scope was killed");
    }
    let protected = format!("protected = [{}]\n{}", patient.scope(), policy(&patient.scope(), kill_it));
    let mut agent = home.agent(&protected, None)?;
    patient.crash()?;
    agent.wait_for("protected", |line| is_action(line, "refused", Some("protected")))?;
    agent.stop(Signal::SIGTERM)?;
    ensure!(patient.is_alive(), "somebody protected was killed");
    let mut agent = home.agent(&policy(&patient.scope(), kill_it), None)?;
    patient.crash()?;
    agent.wait_for("a kill that helps", |line| is_action(line, "executed", None) && line["outcome"] == "recovered")?;
    agent.stop(Signal::SIGTERM)?;
    ensure!(!patient.is_alive(), "it was in scope, and the policy says kill");
    Ok(())
}

#[test]
fn observe_says_what_it_would_do_and_does_nothing() {
    let Some(_machine) = machine("observe_says_what_it_would_do_and_does_nothing") else { return };
    observed().unwrap();
}

fn observed() -> Result<()> {
    let (mut patient, home) = (Alone::new("observe")?, Home::new("observe")?);
    let text = policy(&patient.scope(), "{ verb = \"kill\" }").replace("mode = \"act\"", "mode = \"observe\"");
    let mut agent = home.agent(&text, None)?;
    patient.crash()?;
    agent.wait_for("a dry run", |line| is_action(line, "dry_run", None))?;
    agent.stop(Signal::SIGTERM)?;
    ensure!(patient.is_alive(), "observe touched something");
    ensure!(!home.path().join("recovery.journal").exists(), "observe writes no journal");
    Ok(())
}

#[test]
fn a_damaged_journal_binds_the_hands_until_it_is_moved_away() {
    let Some(_machine) = machine("a_damaged_journal_binds_the_hands_until_it_is_moved_away") else { return };
    damaged().unwrap();
}

fn damaged() -> Result<()> {
    let (mut patient, home) = (Alone::new("journal")?, Home::new("journal")?);
    let text = policy(&patient.scope(), "{ verb = \"kill\", verify_for = \"200ms\" }");
    // A sound journal with some records first.
    home.agent(&text, None)?.stop(Signal::SIGTERM)?;
    home.agent(&text, None)?.stop(Signal::SIGTERM)?;
    let journal = home.path().join("recovery.journal");
    let mut bytes = fs::read(&journal)?;
    bytes[12] ^= 1;
    fs::write(&journal, &bytes)?;
    let mut agent = home.agent(&text, None)?;
    patient.crash()?;
    agent.wait_for("journal_corrupt", |line| is_action(line, "refused", Some("journal_corrupt")))?;
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.stderr.contains("recovery.journal"), "the message names the file: {}", ended.stderr);
    ensure!(patient.is_alive() && fs::read(&journal)? == bytes, "nothing is done, and the file stays as it is");
    fs::rename(&journal, home.path().join("damaged"))?;
    let mut agent = home.agent(&text, None)?;
    patient.crash()?;
    agent.wait_for("a kill", |line| is_action(line, "executed", None))?;
    agent.stop(Signal::SIGTERM)?;
    Ok(())
}

#[test]
fn without_a_service_manager_a_restart_is_refused() {
    let Some(_machine) = machine("without_a_service_manager_a_restart_is_refused") else { return };
    no_manager().unwrap();
}

fn no_manager() -> Result<()> {
    let (patient, home) = (Alone::new("bus")?, Home::new("bus")?);
    let text = policy(&patient.scope(), "{ verb = \"restart-unit\" }");
    let mut agent = home.agent(&text, Some("unix:path=/nonexistent/bus"))?;
    patient.crash()?;
    agent.wait_for("no_service_manager", |line| is_action(line, "refused", Some("no_service_manager")))?;
    let ended = agent.stop(Signal::SIGTERM)?;
    ensure!(ended.stderr.contains("/nonexistent/bus"), "the message names the bus: {}", ended.stderr);
    Ok(())
}

#[test]
fn a_killed_agent_leaves_nothing_frozen() {
    let Some(_machine) = machine("a_killed_agent_leaves_nothing_frozen") else { return };
    let kills = std::env::var("FAULTLINE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    killed(kills).unwrap();
}

/// SIGKILLs at random moments of a freeze that is to last, and of its decision.
fn killed(kills: u64) -> Result<()> {
    let (mut patient, home) = (Alone::new("kill")?, Home::new("kill")?);
    let text = policy(&patient.scope(), "{ verb = \"freeze-cgroup\", hold = \"60s\", verify_for = \"1s\" }");
    let (mut slowest_ns, mut frozen) = (0, 0);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..kills {
        let agent = home.agent(&text, None)?;
        patient.crash()?;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // From before the event is read until long after the freeze.
        let until = monotonic_ns() + (random >> 33) % 4_000_000;
        while monotonic_ns() < until {
            std::hint::spin_loop();
        }
        kill(agent.pid(), Signal::SIGKILL)?;
        let died = monotonic_ns();
        frozen += u64::from(patient.is_frozen());
        while patient.is_frozen() {
            ensure!(monotonic_ns() - died < 10 * GUARDIAN_NS, "it stays frozen");
            std::hint::spin_loop();
        }
        slowest_ns = slowest_ns.max(monotonic_ns() - died);
        drop(agent);
        // An agent that froze a moment after the look is caught here: the guardian is gone once it has seen to it.
        released(&home)?;
        ensure!(!patient.is_frozen() && patient.is_alive(), "the patient is as it was");
    }
    eprintln!("{kills} agents killed, {frozen} while frozen; slowest thaw {:.1} ms", slowest_ns as f64 / 1e6);
    whole_story(&home)
}

/// `faultline release` finds nothing that the guardian left, however often it is asked.
fn released(home: &Home) -> Result<()> {
    let deadline = agent::after(agent::PATIENCE);
    loop {
        let done = home.command(&["release"])?.output()?;
        // The guardian may still be at it.
        if done.status.success() {
            return Ok(());
        }
        ensure!(monotonic_ns() < deadline, "release: {}", String::from_utf8_lossy(&done.stderr));
        nix::poll::poll(&mut [], nix::poll::PollTimeout::try_from(Duration::from_millis(5))?)?;
    }
}

/// Nothing in the journal is half-done, and nothing was done twice.
fn whole_story(home: &Home) -> Result<()> {
    let listed = home.command(&["actions", "--json"])?.output()?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let mut seen = std::collections::BTreeSet::new();
    for line in String::from_utf8(listed.stdout)?.lines() {
        let entry: Value = serde_json::from_str(line)?;
        ensure!(entry["state"] != "half_done", "half-done: {line}");
        ensure!(seen.insert((entry["agent_pid"].to_string(), entry["id"].to_string())), "twice: {line}");
    }
    Ok(())
}

#[test]
fn simulate_shows_what_a_policy_would_have_done() {
    let Some(_machine) = machine("simulate_shows_what_a_policy_would_have_done") else { return };
    simulated().unwrap();
}

fn simulated() -> Result<()> {
    let (patient, home) = (Alone::new("simulate")?, Home::new("simulate")?);
    let recording = home.path().join("run.flt");
    let old = home.path().join("old.toml");
    fs::write(&old, "mode = \"observe\"\n")?;
    let mut command = home.command(&["run", "--json", "--no-flight", "--config"])?;
    command.arg(&old).arg("--record").arg(&recording);
    let mut agent = Agent::start_command(command)?;
    patient.crash()?;
    agent
        .wait_for("the crash", |line| line["kind"] == "process_crash" && line["entity"]["name"] == "patient.service")?;
    agent.stop(Signal::SIGTERM)?;
    let new = home.path().join("new.toml");
    fs::write(&new, policy(&patient.scope(), "{ verb = \"kill\" }"))?;
    let mut command = home.command(&["simulate", "--json", "--config"])?;
    let shown = command.arg(&new).arg(&recording).output()?;
    ensure!(shown.status.code() == Some(1), "a difference is a finding: {}", String::from_utf8_lossy(&shown.stderr));
    let text = String::from_utf8(shown.stdout)?;
    let added: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(added.iter().any(|d| d["change"] == "added" && d["verb"] == "kill" && d["decision"] == "act"), "{text}");
    let mut command = home.command(&["simulate", "--config"])?;
    let same = command.arg(&old).arg(&recording).output()?;
    ensure!(same.status.success(), "the recorded policy differs in nothing: {}", String::from_utf8_lossy(&same.stdout));
    Ok(())
}
