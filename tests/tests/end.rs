//! The end of an agent that may act, orderly and not: what is thawed, who watches, and what is said. On this machine, as
//! root, in throw-away cgroups.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::net::UnixListener, time::Duration};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use faultline_tests::{
    agent::{self, Agent},
    case::heal::Home,
    lock,
    patient::{Patient, Ward},
};
use nix::{
    poll::{PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn machine(test: &str) -> Option<lock::Machine> {
    lock::is_root(test).then(|| lock::machine().unwrap())
}

/// Crashes below `scope` are answered by a freeze that outlasts the test.
fn policy(scope: &str) -> String {
    format!(
        "mode = \"act\"\n[scope]\ncgroups = [\"{scope}\"]\n[[plan]]\non = \"process_crash\"\n\
        steps = [{{ verb = \"freeze-cgroup\", hold = \"60s\" }}]\n[output]\nevents = false\n"
    )
}

fn is_action(line: &Value, verb: &str, decision: &str) -> bool {
    line["type"] == "action" && line["verb"] == verb && line["decision"] == decision
}

/// An agent that has frozen its patient.
fn frozen(home: &Home, ward: &Ward, patient: &Patient) -> Result<Agent> {
    let mut agent = home.agent(&policy(&ward.scope()), None)?;
    patient.crash()?;
    agent.wait_for("a freeze", |line| is_action(line, "freeze-cgroup", "executed"))?;
    ensure!(patient.is_frozen(), "it is said to be frozen");
    Ok(agent)
}

/// The pid of an agent's guardian: the child that has its name.
fn guardian(agent: &Agent) -> Result<Pid> {
    let deadline = agent::after(agent::PATIENCE);
    loop {
        // A child belongs to the thread that made it.
        let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid()))?.flatten();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect::<String>();
        let is_guardian = |pid: &&str| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "faultline-guard")
        };
        if let Some(pid) = children.split_whitespace().find(is_guardian) {
            return Ok(Pid::from_raw(pid.parse()?));
        }
        ensure!(monotonic_ns() < deadline, "no guardian among the children {children:?}");
        std::thread::yield_now();
    }
}

fn until_thawed(patient: &Patient) -> Result<Duration> {
    let start = monotonic_ns();
    while patient.is_frozen() {
        ensure!(monotonic_ns() - start < agent::PATIENCE.as_nanos() as u64, "it stays frozen");
        std::thread::yield_now();
    }
    Ok(Duration::from_nanos(monotonic_ns() - start))
}

fn actions(home: &Home) -> Result<Vec<Value>> {
    let listed = home.command(&["actions", "--json"])?.output()?;
    ensure!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8(listed.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn an_orderly_end_thaws_and_says_so() {
    let Some(_machine) = machine("an_orderly_end_thaws_and_says_so") else { return };
    orderly().unwrap();
}

fn orderly() -> Result<()> {
    let (ward, home) = (Ward::new("end")?, Home::new("end")?);
    let patient = ward.patient("patient.service")?;
    let ended = frozen(&home, &ward, &patient)?.stop(Signal::SIGTERM)?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    ensure!(!patient.is_frozen(), "the agent is gone and its freeze is not");
    for verb in ["freeze-cgroup", "thaw-cgroup"] {
        let last = ended.lines.iter().rfind(|line| is_action(&line.value, verb, "executed"));
        let last = last.with_context(|| format!("no {verb}"))?;
        ensure!(last.value["outcome"] == "unknown", "nobody was there to verify it: {}", last.text);
    }
    for entry in actions(&home)? {
        ensure!(entry["outcome"] == "unknown" && entry["state"] != "half_done", "{entry}");
    }
    Ok(())
}

#[test]
fn what_the_executor_is_at_is_waited_for() {
    let Some(_machine) = machine("what_the_executor_is_at_is_waited_for") else { return };
    awaited().unwrap();
}

/// How long the service manager of this test takes to go away after the agent was told to end. Longer than a drain, shorter
/// than an agent may take; nothing is wrong on a machine where it is neither.
const LATE: u16 = 300;

/// A restart by a service manager that takes the call, says nothing, and goes away while the agent is ending.
fn awaited() -> Result<()> {
    let (ward, home) = (Ward::new("awaited")?, Home::new("awaited")?);
    let patient = ward.patient("patient.service")?;
    let socket = home.path().join("bus");
    let bus = UnixListener::bind(&socket)?;
    let text = policy(&ward.scope()).replace("freeze-cgroup\", hold = \"60s", "restart-unit\", timeout = \"30s");
    let mut agent = home.agent(&text, Some(&format!("unix:path={}", socket.display())))?;
    patient.crash()?;
    let fault = agent.wait_for("a fault", |line| line["type"] == "fault" && line["kind"] == "process_crash")?;
    let (silent, _) = bus.accept()?;
    let gone = std::thread::spawn(move || {
        let _ = poll(&mut [], PollTimeout::from(LATE));
        drop((silent, bus));
    });
    let ended = agent.stop(Signal::SIGTERM)?;
    gone.join().ok().context("the bus panicked")?;
    ensure!(ended.code()? == 0, "{}", ended.stderr);
    let answer = ended.lines.iter().find(|line| line.value["fault"] == fault["id"] && line.kind() == "action");
    let answer = answer.context("the restart has no line")?;
    ensure!(answer.value["reason"] == "no_service_manager", "{}", answer.text);
    Ok(())
}

#[test]
fn a_guardian_that_dies_is_replaced() {
    let Some(_machine) = machine("a_guardian_that_dies_is_replaced") else { return };
    replaced().unwrap();
}

fn replaced() -> Result<()> {
    let (ward, home) = (Ward::new("guardian")?, Home::new("guardian")?);
    let patient = ward.patient("patient.service")?;
    let mut agent = frozen(&home, &ward, &patient)?;
    let first = guardian(&agent)?;
    kill(first, Signal::SIGKILL)?;
    agent.wait_until_said("another guardian watches")?;
    let second = guardian(&agent)?;
    ensure!(second != first, "the dead one, {first}, is still its child: {}", agent.said());
    ensure!(patient.is_frozen(), "what was held is held");
    kill(agent.pid(), Signal::SIGKILL)?;
    let took = until_thawed(&patient)?;
    eprintln!("thawed by the second guardian after {:.1} ms", took.as_secs_f64() * 1e3);
    Ok(())
}

#[test]
fn what_was_left_behind_is_said_by_an_agent_that_may_not_act() {
    let Some(_machine) = machine("what_was_left_behind_is_said_by_an_agent_that_may_not_act") else { return };
    left_behind().unwrap();
}

fn left_behind() -> Result<()> {
    let (ward, home) = (Ward::new("left")?, Home::new("left")?);
    let patient = ward.patient("patient.service")?;
    let agent = frozen(&home, &ward, &patient)?;
    // Both at once, as a kill of their whole cgroup does: nobody is left to take anything back.
    kill(guardian(&agent)?, Signal::SIGKILL)?;
    kill(agent.pid(), Signal::SIGKILL)?;
    drop(agent);
    ensure!(patient.is_frozen(), "somebody thawed it");
    let mut observer = home.agent("mode = \"observe\"\n", None)?;
    observer.wait_until_said("run `faultline release`")?;
    observer.stop(Signal::SIGTERM)?;
    ensure!(patient.is_frozen(), "an agent that may not act touched it");
    let released = home.command(&["release"])?.output()?;
    ensure!(released.status.success(), "{}", String::from_utf8_lossy(&released.stderr));
    ensure!(!patient.is_frozen(), "release takes it back");
    let mut observer = home.agent("mode = \"observe\"\n", None)?;
    observer.watch(Duration::from_millis(100))?;
    ensure!(!observer.said().contains("faultline release"), "there is nothing left: {}", observer.said());
    Ok(())
}
