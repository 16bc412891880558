//! Event to action: how long after a kernel event the reflex verbs have acted. In: crashes of processes in own cgroups under
//! a real agent with a real policy. Out: the times, beside the bare system call on a twin cgroup right before each event.
//!
//! The way from the kernel to the decision is measured against a bare ring consumer by `reaction`; here the rest of the
//! way, from the decision to the end of the action, is judged against the system call alone.

use std::{fs::OpenOptions, io::Write, path::Path, time::Duration};

use anyhow::{Context, Result};
use faultline::clock::monotonic_ns;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Bench, machine,
    report::{Measure, Report},
    stats::quantile,
};
use crate::{case::heal::Home, patient::Ward};

/// What the decision to the end of the action may take longer than the bare system call, ns.
const ABOVE_NS: f64 = 100_000.0;
/// By then the handles of a round are prepared.
const PREPARED: Duration = Duration::from_secs(1);
/// Patients of one agent.
const PATIENTS: usize = 50;

/// Times of one verb, ns.
#[derive(Default)]
struct Times {
    whole: Vec<f64>,
    acting: Vec<f64>,
    bare: Vec<f64>,
}

/// Both reflex verbs.
///
/// # Errors
/// The agent or a cgroup failed.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let rounds = if bench.quick { 4 } else { 20 };
    for (verb, step, file) in [
        ("freeze-cgroup", r#"{ verb = "freeze-cgroup", hold = "60s" }"#, "cgroup.freeze"),
        ("kill", r#"{ verb = "kill", verify_for = "1s" }"#, "cgroup.kill"),
    ] {
        let mut times = Times::default();
        for _ in 0..rounds {
            // On a thread of its own: it is pinned, and what it starts stays where it is.
            let done = std::thread::scope(|scope| scope.spawn(|| round(bench, verb, step, file, &mut times)).join());
            done.map_err(|_| anyhow::anyhow!("a round panicked"))??;
        }
        tell(verb, &mut times, report);
    }
    Ok(())
}

fn round(bench: &Bench, verb: &str, step: &str, file: &str, times: &mut Times) -> Result<()> {
    machine::pin(bench.places.generator)?;
    let ward = Ward::new("bench-hands")?;
    let patients: Vec<_> = (0..PATIENTS).map(|n| ward.patient(&format!("p-{n}.service"))).collect::<Result<_>>()?;
    let twins: Vec<_> = (0..PATIENTS).map(|n| ward.patient(&format!("twin-{n}"))).collect::<Result<_>>()?;
    let home = Home::new("bench")?;
    let policy = format!(
        "mode = \"act\"\n[scope]\ncgroups = [\"{}\"]\n[[plan]]\non = \"process_crash\"\nsteps = [{step}]\n[budget]\n\
        actions = 1000\ncooldown = \"1ms\"\n[budget.blast_radius]\ncount = 1000\nshare_percent = 100\n[reactor]\ncpu = {}\n[output]\nevents = false\n",
        ward.scope(),
        bench.places.consumer
    );
    let mut agent = home.agent(&policy, None)?;
    // While the handles of so many cgroups are being prepared, the executor acts in their place.
    agent.watch(PREPARED)?;
    for (number, (patient, twin)) in patients.iter().zip(&twins).enumerate() {
        times.bare.push(bare(&twin.folder().join(file))?);
        patient.crash()?;
        let name = format!("/p-{number}.service");
        let action = agent.wait_for(&format!("{verb} of {name}"), |line| {
            line["verb"] == verb && line["decision"] == "executed" && ends_with(line, &name)
        })?;
        let fault = agent.wait_for("its fault", |line| line["type"] == "fault" && line["id"] == action["fault"])?;
        let number = |line: &Value, key: &str| line[key].as_u64().with_context(|| format!("no {key} in {line}"));
        let (opened, finished) = (number(&fault, "opened_ns")?, number(&action, "finished_ns")?);
        let decided = opened + number(&fault, "kernel_to_decision_ns")?;
        times.whole.push(finished.saturating_sub(opened) as f64);
        times.acting.push(finished.saturating_sub(decided) as f64);
    }
    agent.stop(Signal::SIGTERM)?;
    Ok(())
}

fn ends_with(line: &Value, name: &str) -> bool {
    line["target"]["name"].as_str().is_some_and(|target| target.ends_with(name))
}

/// The system call alone, into a descriptor that is open already.
fn bare(path: &Path) -> Result<f64> {
    let mut file = OpenOptions::new().write(true).open(path).with_context(|| path.display().to_string())?;
    let start = monotonic_ns();
    file.write_all(b"1")?;
    Ok((monotonic_ns() - start) as f64)
}

fn tell(verb: &str, times: &mut Times, report: &mut Report) {
    let events = times.whole.len();
    for (word, q) in [("p50", 0.5), ("p99", 0.99)] {
        let whole = quantile(&mut times.whole, q);
        let note = format!("{events} real crashes, kernel event to the end of the action");
        report.add(Measure::new(format!("hands.{verb}.event_to_action.{word}"), whole, "ns").note(note));
        let (acting, bare) = (quantile(&mut times.acting, q), quantile(&mut times.bare, q));
        let measure = Measure::new(format!("hands.{verb}.decision_to_action.{word}"), acting, "ns").against(bare);
        let measure = measure.note(format!("{:+.0} ns against the bare system call on a twin", acting - bare));
        report.add(if word == "p99" { measure.bar("<= bare + 100000 ns", acting <= bare + ABOVE_NS) } else { measure });
    }
}
