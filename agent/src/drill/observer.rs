//! The witness of a drill: a child agent. In: the lines of `faultline run --json`; out: sensor health and faults.
//!
//! A drill judges what an operator would see, so it starts the whole agent in `observe` mode and reads its output, instead of
//! listening inside this process. One agent serves all drills of one run. Its standard error goes to a memory file: nobody
//! has to drain it, and its end explains an agent that died.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::DrillError;
use super::child::{OnParentDeath, PidFd, send, spawn};
use super::lines::Lines;
use super::stage::{SECOND, poll_readable};
use super::verdict::{Expected, Fault};
use crate::clock::monotonic_ns;
use crate::sensor;

/// How long the agent may take to drain after SIGTERM (its own promise is 2 s).
const DRAIN_WITHIN_S: u64 = 10;

/// How to start the agent that watches. The default is this binary: `run --mode observe --json`.
#[derive(Debug, Clone)]
pub struct AgentCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its service's directories, if not the machine's own.
    pub home: Option<PathBuf>,
}

impl Default for AgentCommand {
    fn default() -> Self {
        let args = ["run", "--mode", "observe", "--json", "--no-flight"].map(OsString::from).to_vec();
        Self { program: PathBuf::from("/proc/self/exe"), args, home: None }
    }
}

/// What the agent said about one sensor.
#[derive(Debug, Clone)]
struct Health {
    state: String,
    why: String,
}

/// The running agent and what it said so far.
pub struct Observer {
    child: Child,
    pidfd: PidFd,
    lines: Lines,
    words: File,
    health: BTreeMap<String, Health>,
    faults: Vec<Fault>,
    /// Ends of actions that recovered their fault: the fault's id, and when the action was over.
    recoveries: Vec<(String, u64)>,
    judged: usize,
    summary: bool,
    stopping: bool,
}

impl Observer {
    /// Starts the agent. It gets SIGTERM when the calling thread dies, so it drains also when the drill is killed.
    pub fn start(agent: &AgentCommand) -> Result<Self, DrillError> {
        let wrong = |error: std::io::Error| {
            let object = format!("the agent ({})", agent.program.display());
            DrillError::system("start", object)(error)
        };
        let words = memfd_create("faultline-drill-agent", MFdFlags::MFD_CLOEXEC).map_err(|e| wrong(e.into()))?;
        let words = File::from(words);
        let mut command = Command::new(&agent.program);
        for variable in ["STATE_DIRECTORY", "RUNTIME_DIRECTORY"] {
            command.envs(agent.home.iter().map(|home| (variable, home)));
        }
        command.args(&agent.args).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(words.try_clone().map_err(wrong)?);
        let mut child = spawn(&mut command, OnParentDeath::Signal(Signal::SIGTERM)).map_err(wrong)?;
        let parts = PidFd::open(child.id()).and_then(|pidfd| {
            let stdout = child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
            Ok((pidfd, Lines::new(stdout)?))
        });
        match parts {
            Ok((pidfd, lines)) => Ok(Self::new(child, pidfd, lines, words)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(wrong(error))
            }
        }
    }

    fn new(child: Child, pidfd: PidFd, lines: Lines, words: File) -> Self {
        let (health, faults, recoveries) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { child, pidfd, lines, words, health, faults, recoveries, judged: 0, summary: false, stopping: false }
    }

    /// Takes in everything the agent has written so far.
    pub fn read(&mut self) -> Result<(), DrillError> {
        while let Some(line) = self.lines.next().map_err(DrillError::system("read from", "the agent"))? {
            self.take(&line)?;
        }
        if self.lines.ended() && !self.stopping {
            let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(DrillError::AgentEnded { status, words: self.last_words() });
        }
        Ok(())
    }

    /// True once every sensor was reported.
    pub fn ready(&self) -> bool {
        // One `health` line each.
        sensor::SENSORS.iter().all(|sensor| self.health.contains_key(sensor.name))
    }

    /// Why `sensor` cannot witness anything, or `None` when it can.
    pub fn blind(&self, sensor: &str) -> Option<String> {
        let health = self.health.get(sensor)?;
        let blind = ["broken", "unsupported"].iter().any(|state| health.state.eq_ignore_ascii_case(state));
        blind.then(|| format!("the sensor {sensor} is {}: {}", health.state, health.why))
    }

    /// True when a fault that was not judged yet is the expected one.
    pub fn has_new(&self, expected: &Expected) -> bool {
        self.faults[self.judged..].iter().any(|fault| expected.is(fault))
    }

    /// When an action was over that recovered the expected fault.
    pub fn recovered_ns(&self, expected: &Expected) -> Option<u64> {
        let fault = self.faults[self.judged..].iter().find(|fault| expected.is(fault))?;
        self.recoveries.iter().find(|(id, _)| *id == fault.id).map(|(_, at_ns)| *at_ns)
    }

    /// The faults since the last call, each id once, as it was when it opened.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        let new = self.faults[self.judged..].to_vec();
        self.judged = self.faults.len();
        new
    }

    /// Stops the agent and checks that it drained and said good-bye.
    pub fn stop(&mut self) -> Result<(), DrillError> {
        self.stopping = true;
        send(&self.pidfd, Signal::SIGTERM).map_err(DrillError::system("stop", "the agent"))?;
        let deadline = monotonic_ns() + DRAIN_WITHIN_S * SECOND;
        while !self.lines.ended() {
            let left = deadline.saturating_sub(monotonic_ns());
            if left == 0 || !poll_readable(&[self.lines.as_fd()], left)? {
                return Err(DrillError::Timeout { who: "the agent", what: "drain", seconds: DRAIN_WITHIN_S });
            }
            self.read()?;
        }
        self.wait_for_end(deadline)?;
        if self.summary { Ok(()) } else { Err(DrillError::NoSummary { words: self.last_words() }) }
    }

    fn wait_for_end(&mut self, deadline_ns: u64) -> Result<(), DrillError> {
        let left = deadline_ns.saturating_sub(monotonic_ns());
        if !poll_readable(&[self.pidfd.as_fd()], left)? {
            return Err(DrillError::Timeout { who: "the agent", what: "end", seconds: DRAIN_WITHIN_S });
        }
        self.child.wait().map_err(DrillError::system("wait for", "the agent"))?;
        Ok(())
    }

    /// One line of the agent's output.
    fn take(&mut self, line: &str) -> Result<(), DrillError> {
        let bad = || DrillError::AgentLine { line: line.chars().take(200).collect() };
        let value: Value = serde_json::from_str(line).map_err(|_| bad())?;
        match value["type"].as_str().ok_or_else(bad)? {
            "health" => {
                let sensor = value["sensor"].as_str().ok_or_else(bad)?.to_owned();
                let state = value["state"].as_str().ok_or_else(bad)?.to_owned();
                self.health.insert(sensor, Health { state, why: reason_of(&value) });
            }
            "fault" => {
                let fault = Fault::from_line(&value).ok_or_else(bad)?;
                // Later lines of the same id tell of its life cycle, not of a new fault.
                if !self.faults.iter().any(|known| known.id == fault.id) {
                    self.faults.push(fault);
                }
            }
            "action" if value["outcome"] == "recovered" => {
                if let (Some(fault), Some(at_ns)) = (value["fault"].as_str(), value["finished_ns"].as_u64()) {
                    self.recoveries.push((fault.to_owned(), at_ns));
                }
            }
            "summary" => self.summary = true,
            _ => {}
        }
        Ok(())
    }

    /// The end of the agent's standard error, on one line.
    fn last_words(&mut self) -> String {
        let mut text = Vec::new();
        let start = self.words.seek(SeekFrom::End(0)).unwrap_or(0).saturating_sub(600);
        let read = self.words.seek(SeekFrom::Start(start)).and_then(|_| self.words.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
        if read.is_err() || text.is_empty() { "nothing".into() } else { text }
    }
}

impl AsFd for Observer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lines.as_fd()
    }
}

impl Drop for Observer {
    /// The way of errors: ask to drain, then insist.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a health line says about a sensor that does not work: its error, or what is missing.
fn reason_of(health: &Value) -> String {
    let texts = [&health["error"], &health["missing"], &health["why"]];
    let found = texts.into_iter().find(|value| !value.is_null());
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "no reason given".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{AgentCommand, DrillError, Observer, SECOND, poll_readable};
    use crate::drill::verdict::Expected;
    use std::os::fd::AsFd;

    const HEALTH: &str = r#"
        for s in tcp_retransmit oom_kill block_io task_hang tcp_connect tcp_reset packet_drop; do echo "{\"type\":\"health\",\"sensor\":\"$s\",\"state\":\"ok\"}"; done
        echo '{"type":"health","sensor":"process_exit","state":"broken","error":"no BTF"}'"#;

    /// A script that waits for SIGTERM, then does `last` and ends; comes before anything is said, or the signal came first.
    fn wait_for_term(last: &str) -> String {
        format!("sleep 60 >/dev/null & trap 'kill $!; {last} exit 0' TERM")
    }

    /// An agent that is a shell script: `first`, the health lines, `then`.
    fn agent(first: &str, then: &str) -> Observer {
        let args = ["-c".into(), format!("{first}\n{HEALTH}\n{then}").into()].to_vec();
        Observer::start(&AgentCommand { program: "/bin/sh".into(), args, home: None }).expect("sh starts")
    }

    /// Reads until `enough` or the agent's end.
    fn read_until(observer: &mut Observer, enough: impl Fn(&Observer) -> bool) -> Result<(), DrillError> {
        while !enough(observer) {
            assert!(poll_readable(&[observer.as_fd()], 10 * SECOND)?, "the script says something within 10 s");
            observer.read()?;
        }
        Ok(())
    }

    fn fault(id: u32, state: &str) -> String {
        format!(
            "echo '{{\"type\":\"fault\",\"id\":\"{id}\",\"kind\":\"oom_kill\",\"state\":\"{state}\",\
             \"entity\":{{\"kind\":\"cgroup\",\"name\":\"/x\"}},\"evidence\":{{}},\"opened_ns\":1}}'\n"
        )
    }

    #[test]
    fn life_cycle_lines_are_one_fault_and_the_end_is_orderly() {
        let said = [fault(1, "open"), fault(1, "clearing"), fault(1, "closed"), fault(2, "open")].concat();
        let first = wait_for_term("echo \"{\\\"type\\\":\\\"summary\\\"}\";");
        let mut observer = agent(&first, &format!("{said}wait"));
        let expected = Expected { kind: "oom_kill", entity_kind: "cgroup", entity_name: "x".into(), victim_pid: None };
        read_until(&mut observer, |observer| observer.faults.len() == 2).expect("two faults");
        assert!(observer.ready() && observer.has_new(&expected));
        assert_eq!(observer.take_faults().len(), 2);
        assert!(!observer.has_new(&expected));
        assert_eq!(observer.blind("block_io"), None);
        assert_eq!(observer.blind("process_exit").as_deref(), Some("the sensor process_exit is broken: no BTF"));
        observer.stop().expect("it drains and says its summary");
    }

    #[test]
    fn an_agent_that_stops_without_a_summary_is_an_error() {
        let mut observer = agent(&wait_for_term(""), "wait");
        read_until(&mut observer, Observer::ready).expect("ready");
        assert!(matches!(observer.stop(), Err(DrillError::NoSummary { .. })));
    }

    #[test]
    fn an_agent_that_dies_is_named_with_its_last_words() {
        let mut observer = agent("", "echo 'no CAP_BPF' >&2; exit 3");
        let error = read_until(&mut observer, |_| false).expect_err("it ended");
        assert!(matches!(&error, DrillError::AgentEnded { words, .. } if words == "no CAP_BPF"), "{error}");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_line_that_is_no_line_of_the_agent_is_an_error() {
        let mut observer = agent("", "echo hello; read x");
        let error = read_until(&mut observer, |_| false).expect_err("not JSON");
        assert!(matches!(error, DrillError::AgentLine { line } if line == "hello"));
    }
}
