//! The hands of a real agent on this machine, as root, in throw-away cgroups: what is done, and what is refused and why.
//! What is taken back when the agent dies: `guardian.rs`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use anyhow::{Result, ensure};
use faultline_tests::{agent::Agent, case::heal::Home, lock, patient::Alone};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A policy whose only variable parts are the scope and the plan.
fn policy(scope: &str, plan: &str) -> String {
    format!(
        "mode = \"act\"\n[scope]\ncgroups = [{scope}]\n[[plan]]\non = \"process_crash\"\nsteps = [{plan}]\n\
        [budget]\nactions = 500\ncooldown = \"1ms\"\n[budget.blast_radius]\ncount = 100\nshare_percent = 100\n\
        [faults]\nclear_after = \"1s\"\nclose_after = \"1s\"\n[output]\nevents = false\n"
    )
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
