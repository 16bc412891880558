//! Event to action: how long after a kernel event the reflex verbs have acted. In: crashes of processes in own cgroups under
//! a real agent with a real policy, and under the bare consumer (`actor`). Out: the times of both, from the kernel's stamp
//! of the same kind of crash to the end of the same write.
//!
//! Rounds of the two are interleaved, each first in turn; both have the same configuration file (so the same CPU, priority
//! and way to wait), locked memory and niceness. The bare consumer has nothing else: what the agent takes longer is the
//! price of its decoding, engine, brakes, journal and second look.

use std::{fs, fs::OpenOptions, io::Write, path::Path, time::Duration};

use anyhow::{Context, Result};
use faultline::clock::monotonic_ns;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Bench, actor, machine,
    report::{Measure, Report},
    stats::{Interval, bootstrap, quantile},
};
use crate::{
    agent::Agent,
    case::heal::Home,
    patient::{Patient, Ward},
};

/// What the action may take longer than the bare one, ns.
const ABOVE_NS: f64 = 100_000.0;
/// By then the handles of a round are prepared.
const PREPARED: Duration = Duration::from_secs(1);
/// Before each crash, for everybody alike: how long it takes to wake the CPU depends on how long it slept.
const PAUSE: Duration = Duration::from_millis(5);
/// Patients of one agent.
const PATIENTS: usize = 50;
/// Whole measurements at most, should the control say that others had the CPUs.
const TRIES: usize = 2;
/// How far apart the 99th percentiles of the two selves of the bare consumer may be, ns: half the bar.
const DISTURBED_NS: f64 = ABOVE_NS / 2.0;

/// A reflex verb: its name, its step in a policy, and the file that it writes.
struct Reflex {
    verb: &'static str,
    step: &'static str,
    file: &'static str,
}

/// In what agent and bare consumer are the same.
const ALIKE: &str = "both: same object, critical ring and file, adaptive spin of 20 us, pinned, memory locked";

/// How the thread that acts is scheduled, in both: by the normal class at nice -20, where others may have the CPU for some
/// milliseconds first, or in real time, as the agent's configuration offers it.
struct Class {
    word: &'static str,
    reactor: &'static str,
    note: &'static str,
}

const CLASSES: [Class; 2] = [
    Class { word: "", reactor: "", note: "nice -20" },
    Class { word: ".fifo", reactor: "fifo_priority = 10\n", note: "SCHED_FIFO" },
];

const REFLEXES: [Reflex; 2] = [
    Reflex { verb: "freeze-cgroup", step: r#"{ verb = "freeze-cgroup", hold = "60s" }"#, file: "cgroup.freeze" },
    Reflex { verb: "kill", step: r#"{ verb = "kill", verify_for = "1s" }"#, file: "cgroup.kill" },
];

/// Who answers the crashes of a round.
#[derive(Clone, Copy)]
enum Who {
    Agent,
    Bare,
    /// The bare consumer again: what chance alone does.
    Control,
}

/// Times of one verb by round, ns.
#[derive(Default)]
struct Times {
    agent: Vec<Vec<f64>>,
    bare: Vec<Vec<f64>>,
    control: Vec<Vec<f64>>,
    /// The agent's, from the decision on.
    acting: Vec<f64>,
    /// The system call alone, on a twin.
    call: Vec<f64>,
}

/// Both reflex verbs.
///
/// # Errors
/// The agent, the bare consumer or a cgroup failed.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for (reflex, class) in REFLEXES.iter().flat_map(|reflex| CLASSES.iter().map(move |class| (reflex, class))) {
        let mut tries = 1;
        let mut times = rounds(bench, reflex, class)?;
        while times.disturbed() && tries < TRIES && !bench.quick {
            tries += 1;
            times = rounds(bench, reflex, class)?;
        }
        tell(reflex.verb, class, &mut times, tries, report);
    }
    Ok(())
}

fn rounds(bench: &Bench, reflex: &Reflex, class: &Class) -> Result<Times> {
    let rounds = if bench.quick { 3 } else { 20 };
    let mut times = Times::default();
    for round in 0..rounds {
        for turn in 0..3 {
            let who = [Who::Agent, Who::Bare, Who::Control][(round + turn) % 3];
            // On a thread of its own: it is pinned, and what it starts stays where it is.
            let done = std::thread::scope(|scope| scope.spawn(|| one(bench, reflex, class, who, &mut times)).join());
            done.map_err(|_| anyhow::anyhow!("a round panicked"))??;
        }
    }
    Ok(times)
}

/// A patient's unit. With the process id: units are known by name, and a run that was killed may have left some.
fn unit(n: usize) -> String {
    format!("p-{}-{n}.service", std::process::id())
}

fn one(bench: &Bench, reflex: &Reflex, class: &Class, who: Who, times: &mut Times) -> Result<()> {
    machine::pin(bench.places.generator)?;
    let ward = Ward::new("bench-hands")?;
    let patients: Vec<_> = (0..PATIENTS).map(|n| ward.patient(&unit(n))).collect::<Result<_>>()?;
    let home = Home::new("bench")?;
    let file = home.path().join("policy.toml");
    fs::write(&file, policy(bench, reflex, class, &ward)).with_context(|| file.display().to_string())?;
    let taken = match who {
        Who::Agent => return by_agent(bench, reflex, &home, &ward, &patients, times),
        Who::Bare => &mut times.bare,
        Who::Control => &mut times.control,
    };
    taken.push(by_bare(bench, reflex, &file, &patients)?);
    Ok(())
}

/// The same for everybody; what is not said here is as by default.
fn policy(bench: &Bench, reflex: &Reflex, class: &Class, ward: &Ward) -> String {
    format!(
        "mode = \"act\"\n[scope]\ncgroups = [\"{}\"]\n[[plan]]\non = \"process_crash\"\nsteps = [{}]\n[budget]\n\
        actions = 1000\ncooldown = \"1ms\"\n[budget.blast_radius]\ncount = 1000\nshare_percent = 100\n[reactor]\ncpu = {}\n{}",
        ward.scope(),
        reflex.step,
        bench.places.consumer,
        class.reactor
    )
}

fn by_agent(
    bench: &Bench,
    reflex: &Reflex,
    home: &Home,
    ward: &Ward,
    patients: &[Patient],
    times: &mut Times,
) -> Result<()> {
    let twins: Vec<_> = (0..patients.len()).map(|n| ward.patient(&format!("twin-{n}"))).collect::<Result<_>>()?;
    let mut command = home.command(&["run", "--json", "--no-flight", "--config"])?;
    command.arg(home.path().join("policy.toml")).env("FAULTLINE_BUS", "unix:path=/nonexistent");
    // As the bare consumer: only the reactor's thread goes to the other CPU, by configuration.
    machine::bind(&mut command, Some(bench.places.generator));
    let mut agent = Agent::start_command(command)?;
    // While the handles of so many cgroups are being prepared, the executor acts in their place.
    agent.watch(PREPARED)?;
    let mut taken = Vec::with_capacity(patients.len());
    for (number, (patient, twin)) in patients.iter().zip(&twins).enumerate() {
        times.call.push(call(&twin.folder().join(reflex.file))?);
        machine::wait(PAUSE);
        patient.crash()?;
        let (event, decided, finished) = answer(&mut agent, reflex.verb, &format!("/{}", unit(number)))?;
        taken.push(finished.saturating_sub(event) as f64);
        times.acting.push(finished.saturating_sub(decided) as f64);
    }
    agent.stop(Signal::SIGTERM)?;
    times.agent.push(taken);
    Ok(())
}

/// The kernel's stamp of a crash, the decision, and the end of the action.
fn answer(agent: &mut Agent, verb: &str, name: &str) -> Result<(u64, u64, u64)> {
    let number = |line: &Value, key: &str| line[key].as_u64().with_context(|| format!("no {key} in {line}"));
    let event = agent.wait_for(&format!("event in {name}"), |line| {
        line["sensor"] == "process_exit"
            && line["signal"] == libc::SIGSEGV
            && line["cgroup"].as_str().is_some_and(|cgroup| cgroup.ends_with(name))
    })?;
    let action = agent.wait_for(&format!("{verb} of {name}"), |line| {
        line["verb"] == verb
            && line["decision"] == "executed"
            && line["target"]["name"].as_str().is_some_and(|target| target.ends_with(name))
    })?;
    let fault = agent.wait_for("its fault", |line| line["type"] == "fault" && line["id"] == action["fault"])?;
    let event = number(&event, "ktime_ns")?;
    Ok((event, event + number(&fault, "kernel_to_decision_ns")?, number(&action, "finished_ns")?))
}

fn by_bare(bench: &Bench, reflex: &Reflex, config: &Path, patients: &[Patient]) -> Result<Vec<f64>> {
    let ward = patients.first().and_then(|patient| patient.folder().parent()).context("a ward")?;
    let mut actor = actor::start(config, ward, reflex.file, patients.len(), bench.places.generator)?;
    let mut times = Vec::with_capacity(patients.len());
    for patient in patients {
        machine::wait(PAUSE);
        patient.crash()?;
        let acted = actor.answer()?;
        times.push(acted.end_ns.saturating_sub(acted.event_ns) as f64);
    }
    actor.finish()?;
    Ok(times)
}

/// The quantile over all rounds, or over those picked.
fn pooled(rounds: &[Vec<f64>], picked: Option<&[usize]>, q: f64) -> f64 {
    let mut all: Vec<f64> = match picked {
        Some(picked) => picked.iter().flat_map(|&at| rounds[at].iter().copied()).collect(),
        None => rounds.iter().flatten().copied().collect(),
    };
    quantile(&mut all, q)
}

/// The system call alone, into a descriptor that is open already.
fn call(path: &Path) -> Result<f64> {
    let mut file = OpenOptions::new().write(true).open(path).with_context(|| path.display().to_string())?;
    let start = monotonic_ns();
    file.write_all(b"1")?;
    Ok((monotonic_ns() - start) as f64)
}

impl Times {
    /// Whether chance alone moves the judged number by half of what the bar allows.
    fn disturbed(&self) -> bool {
        (pooled(&self.bare, None, 0.99) - pooled(&self.control, None, 0.99)).abs() > DISTURBED_NS
    }

    /// How sure the ratio of one of them to the bare consumer is.
    fn ratio(&self, above: &[Vec<f64>], q: f64) -> Interval {
        bootstrap(self.bare.len(), |picked| pooled(above, Some(picked), q) / pooled(&self.bare, Some(picked), q))
    }
}

fn tell(verb: &str, class: &Class, times: &mut Times, tries: usize, report: &mut Report) {
    let disturbed = times.disturbed();
    let advice = if disturbed { "; others had the CPUs: measure again on a quiet machine" } else { "" };
    let name = format!("hands.{verb}{}", class.word);
    let events: usize = times.agent.iter().map(Vec::len).sum();
    for (word, q) in [("p50", 0.5), ("p99", 0.99)] {
        let [agent, bare, control] = [&times.agent, &times.bare, &times.control].map(|all| pooled(all, None, q));
        let note = format!(
            "{:+.0} ns, {events} real crashes each, kernel stamp to the end of the write; {ALIKE}, {}; try {tries}{advice}",
            agent - bare,
            class.note
        );
        let measure = Measure::new(format!("{name}.event_to_action.{word}"), agent, "ns").against(bare);
        let measure = measure.within(times.ratio(&times.agent, q)).note(note);
        let passed = !disturbed && agent <= bare + ABOVE_NS;
        report.add(if word == "p99" { measure.bar("<= bare + 100000 ns", passed) } else { measure });
        let control = Measure::new(format!("{name}.event_to_action.{word}.control"), control, "ns").against(bare);
        report.add(control.within(times.ratio(&times.control, q)).note("bare against bare"));
        let (acting, call) = (quantile(&mut times.acting, q), quantile(&mut times.call, q));
        let measure = Measure::new(format!("{name}.decision_to_action.{word}"), acting, "ns").against(call);
        report.add(measure.note(format!("{:+.0} ns against the bare system call on a twin", acting - call)));
    }
}
