//! `faultline drill`: a fire drill on the machine it runs on. In: names of drills; out: one report each, passed, failed or skipped.
//!
//! Every drill makes its own target (a process, a throw-away cgroup, a loop device, two unnamed network namespaces), does one
//! harm to it, and asks a child agent whether it noticed: the expected fault exactly once and no other. Only system calls are
//! used, so a bare machine can hold the drill; what a machine cannot do is skipped with the reason.
//!
//! Nothing is left behind. The targets belong to helper processes that die with the drill; what a dead process would leave
//! (a cgroup) is removed by the [`janitor`], which outlives even a SIGKILL of the drill; [`clean`] removes what was left when
//! the janitor was killed too.
//!
//! Not done: faults injected in this process (a crash would end the drill) and forks (unsafe once a thread exists).

mod cgroup;
mod child;
mod crash;
mod disk;
mod error;
mod fuse;
mod helper;
mod janitor;
mod lines;
pub mod loopdev;
mod net;
mod netlink;
mod observer;
mod oom;
mod policy;
mod slowfs;
mod stage;
mod verdict;

pub use error::DrillError;
pub use observer::AgentCommand;

use janitor::Janitor;
use observer::Observer;
use stage::{DETECT_WITHIN_S, STEP_WITHIN_S, Stage, StopSignals};
use verdict::{Expected, Fault, judge, unexpected};

/// Every drill, in the order in which they run.
pub const NAMES: [&str; 5] = ["crash", "crash-loop", "oom", "disk", "net"];

/// Start of the name of everything a drill makes; the drill's process id follows.
const PREFIX: &str = "faultline-drill-";

/// How long the agent is still watched after the harm was found and done: a second report of it would come now.
const AFTERWARDS_NS: u64 = stage::SECOND / 2;

/// How a drill ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrillState {
    /// The expected fault was reported exactly once, and no other.
    Passed,
    /// It was not, or another was.
    Failed,
    /// This machine cannot hold the drill.
    Skipped,
}

impl DrillState {
    /// The word in the `state` of a `drill` line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// The report of one drill; the `drill` line without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillReport {
    /// One of [`NAMES`].
    pub name: &'static str,
    /// How it ended.
    pub state: DrillState,
    /// The kind of the fault that was seen.
    pub kind: Option<String>,
    /// The kind that should be seen.
    pub expected_kind: &'static str,
    /// CLOCK_MONOTONIC nanoseconds of the first harm.
    pub injected_ns: Option<u64>,
    /// CLOCK_MONOTONIC nanoseconds of the agent's decision.
    pub detected_ns: Option<u64>,
    /// Whether an action healed the target; `None` where nothing was to be healed.
    pub healed: Option<bool>,
    /// CLOCK_MONOTONIC nanoseconds of the end of the action that healed it.
    pub recovered_ns: Option<u64>,
    /// Why it failed or was skipped; `None` when it passed.
    pub reason: Option<String>,
}

/// One drill of the registry.
struct Drill {
    name: &'static str,
    /// The sensor that has to witness it.
    sensor: &'static str,
    expected_kind: &'static str,
    /// Makes the target, does the harm, waits for the fault and removes the target.
    perform: fn(&mut Stage) -> Result<Performance, DrillError>,
}

/// What a drill did.
struct Performance {
    expected: Expected,
    injected_ns: u64,
    /// When healing was asked for: the end of the action that did it, if one did.
    healing: Option<Option<u64>>,
}

const DRILLS: [Drill; 5] = [
    Drill { name: NAMES[0], sensor: "process_exit", expected_kind: "process_crash", perform: crash::perform },
    Drill { name: NAMES[1], sensor: "process_exit", expected_kind: "crash_loop", perform: crash::perform_loop },
    Drill { name: NAMES[2], sensor: "oom_kill", expected_kind: "oom_kill", perform: oom::perform },
    Drill { name: NAMES[3], sensor: "block_io", expected_kind: "disk_latency", perform: disk::perform },
    Drill { name: NAMES[4], sensor: "tcp_retransmit", expected_kind: "retransmit_storm", perform: net::perform },
];

/// Runs the named drills (all when none is named) one after another under one child agent, which `agent_command` starts.
/// Each report is handed out as soon as its drill is over. `Ok(false)`: at least one failed.
///
/// Call it from a thread that lives until it returns: the children die with the calling thread. It blocks SIGINT and SIGTERM
/// there and obeys them itself; in a process with more threads those must block both signals, too.
///
/// # Errors
/// [`DrillError::UnknownDrill`] before anything is made; later, when the agent cannot be started or dies, when a signal asks
/// to stop, and when a fault is reported after the last drill. Everything made is removed in each case.
pub fn run(
    names: &[String],
    agent_command: AgentCommand,
    heal: bool,
    on_report: &mut dyn FnMut(&DrillReport),
) -> Result<bool, DrillError> {
    let drills = select(names)?;
    let stop = StopSignals::take()?;
    let mut janitor = Janitor::start()?;
    let (agent_command, folder) = match heal {
        true => policy::healing_agent(&mut janitor).map(|(command, folder)| (command, Some(folder)))?,
        false => (agent_command, None),
    };
    let observer = Observer::start(&agent_command)?;
    let mut stage = Stage { observer, janitor, stop, heals: heal };
    stage.wait_for_agent(STEP_WITHIN_S)?;
    let mut good = true;
    for drill in drills {
        let report = perform(&mut stage, drill)?;
        good &= report.state != DrillState::Failed;
        on_report(&report);
    }
    stage.observer.stop()?;
    if let Some(folder) = folder {
        policy::remove(&folder)?;
    }
    stage.janitor.dismiss()?;
    match unexpected(&stage.observer.take_faults().iter().collect::<Vec<_>>()) {
        Some(fault) => Err(DrillError::LateFault { fault }),
        None => Ok(good),
    }
}

/// Removes what killed drills left: cgroups and loop devices that carry the drills' name and whose drill is dead. Each is
/// named to `on_removed`.
///
/// # Errors
/// [`DrillError::System`] naming what could not be removed.
pub fn clean(on_removed: &mut dyn FnMut(&str)) -> Result<(), DrillError> {
    janitor::clean(on_removed)
}

/// The work of a helper process; the hidden sub-command `drill-helper ROLE ARGS` calls it from the main thread, before any
/// other thread or runtime exists. Its standard input and output belong to the drill that started it.
///
/// # Errors
/// [`DrillError::UnknownRole`]; every other trouble is told to the drill and ends in `Ok`, because a helper that leaves with
/// a status would be an abnormal exit on the machine under watch.
pub fn helper_main(role: &str, args: &[String]) -> Result<(), DrillError> {
    let outcome = match role {
        crash::ROLE => crash::help(),
        crash::LOOP_ROLE => crash::help_loop(),
        oom::ROLE => oom::help(),
        disk::ROLE => disk::help(args),
        // Its standard output is no drill that could be told; whoever reads the slow file sees it fail.
        slowfs::ROLE => return slowfs::help().or(Ok(())),
        net::RECEIVER_ROLE => net::help_receiver(),
        net::SENDER_ROLE => net::help_sender(),
        janitor::ROLE => return janitor::help(args),
        _ => return Err(DrillError::UnknownRole { role: role.to_owned() }),
    };
    match outcome {
        Ok(()) => Ok(()),
        // When the drill is gone there is nobody left to tell.
        Err(error) => helper::say_error(&error).or(Ok(())),
    }
}

/// The drills of those names, in the fixed order.
fn select(names: &[String]) -> Result<Vec<&'static Drill>, DrillError> {
    if let Some(name) = names.iter().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(DrillError::UnknownDrill { name: name.clone() });
    }
    let wanted = |drill: &&Drill| names.is_empty() || names.iter().any(|name| name == drill.name);
    Ok(DRILLS.iter().filter(wanted).collect())
}

/// One drill from the check of its sensor to its report.
fn perform(stage: &mut Stage, drill: &Drill) -> Result<DrillReport, DrillError> {
    if let Some(why) = stage.observer.blind(drill.sensor) {
        return Ok(report(drill, DrillState::Skipped, Some(why)));
    }
    match (drill.perform)(stage) {
        Ok(performance) => {
            stage.watch(AFTERWARDS_NS)?;
            Ok(judged(drill, &performance, &stage.observer.take_faults()))
        }
        Err(error) if error.ends_the_run() => Err(error),
        Err(error) => {
            let seen = stage.observer.take_faults();
            Ok(not_performed(drill, &error, &seen))
        }
    }
}

/// The report of a drill that did its harm.
fn judged(drill: &Drill, performance: &Performance, faults: &[Fault]) -> DrillReport {
    let mut verdict = judge(&performance.expected, faults, DETECT_WITHIN_S);
    if performance.healing == Some(None) && verdict.reason.is_none() {
        verdict.reason = Some(format!("no action healed it within {DETECT_WITHIN_S} s"));
    }
    let state = if verdict.reason.is_none() { DrillState::Passed } else { DrillState::Failed };
    DrillReport {
        kind: verdict.kind,
        injected_ns: Some(performance.injected_ns),
        detected_ns: verdict.detected_ns,
        healed: performance.healing.map(|recovered| recovered.is_some()),
        recovered_ns: performance.healing.flatten(),
        ..report(drill, state, verdict.reason)
    }
}

/// The report of a drill that could not go through: skipped where the machine lacks something, else failed.
fn not_performed(drill: &Drill, error: &DrillError, seen: &[Fault]) -> DrillReport {
    let skipped = matches!(error, DrillError::Unavailable { .. }) && seen.is_empty();
    let state = if skipped { DrillState::Skipped } else { DrillState::Failed };
    let mut reason = error.to_string();
    if let Some(faults) = unexpected(&seen.iter().collect::<Vec<_>>()) {
        reason = format!("{reason}; {faults}");
    }
    DrillReport { kind: seen.first().map(|fault| fault.kind.clone()), ..report(drill, state, Some(reason)) }
}

/// A report without times.
fn report(drill: &Drill, state: DrillState, reason: Option<String>) -> DrillReport {
    let (name, expected_kind) = (drill.name, drill.expected_kind);
    DrillReport {
        name,
        state,
        kind: None,
        expected_kind,
        injected_ns: None,
        detected_ns: None,
        healed: None,
        recovered_ns: None,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::{DRILLS, DrillError, DrillState, NAMES, not_performed, select};

    #[test]
    fn the_registry_and_the_names_agree() {
        assert_eq!(DRILLS.map(|drill| drill.name), NAMES);
    }

    #[test]
    fn drills_are_selected_in_the_fixed_order() {
        let pick = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            select(&names).map(|drills| drills.iter().map(|drill| drill.name).collect::<Vec<_>>())
        };
        assert_eq!(pick(&[]).expect("all"), NAMES);
        assert_eq!(pick(&["net", "crash", "net"]).expect("two"), ["crash", "net"]);
        assert!(matches!(pick(&["fire"]), Err(DrillError::UnknownDrill { name }) if name == "fire"));
    }

    #[test]
    fn what_the_machine_lacks_is_skipped_and_what_breaks_is_failed() {
        let lacks = not_performed(&DRILLS[3], &DrillError::unavailable("no /dev/fuse"), &[]);
        assert_eq!((lacks.state, lacks.reason.as_deref()), (DrillState::Skipped, Some("no /dev/fuse")));
        let breaks = not_performed(&DRILLS[3], &DrillError::NoDropper, &[]);
        assert_eq!(breaks.state, DrillState::Failed);
    }
}
