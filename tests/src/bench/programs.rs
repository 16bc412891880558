//! (a) What the programs cost. In: a fixed workload. Out: ns per run of every BPF program by the kernel's own
//! statistics, and the workload's time with the agent against without it.
//!
//! Statistics are switched on by a descriptor (BPF_ENABLE_STATS), so nothing stays on behind us. They leave out the
//! dispatch, and cost some 20 ns a run themselves; the second measurement has both in it, as it has the agent's threads.

use std::{
    os::fd::AsFd,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use aya::{
    maps::{MapData, RingBuf},
    sys::{Stats, enable_stats},
};
use faultline::sensor::loader::{self, Loaded, fdinfo};

use super::{
    Bench,
    generator::{self, Death, Order},
    machine::{self, Ignored, Owned},
    report::{Measure, Report},
    stats::{median, median_interval},
    workload::{READS, SPAWNS, Workload},
};
use crate::{inject, program};

/// Children of each kind for one sample.
const DEATHS: u64 = 500;

/// ns per run.
///
/// # Errors
/// The object cannot be loaded, or a part of the workload fails.
pub fn measure_runs(bench: &Bench, report: &mut Report) -> Result<()> {
    let (config, _) = machine::config("never", "")?;
    let mut loaded = loader::load(&machine::facts(), &config, &loader::Options::default())?;
    let _stats = enable_stats(Stats::RunTime).context("the kernel refuses BPF statistics")?;
    let workload = Workload::prepare()?;
    let die = |death, rate| {
        let order = Order { count: DEATHS, rate, death };
        generator::start(order, "fl-bench-gen", bench.places.generator)?.finish().map(drop)
    };
    let samples = if bench.quick { 3 } else { 9 };
    let rings = loaded.critical.take().into_iter().chain(loaded.bulk.take()).collect();
    let mut book = Book { loaded: &loaded, rings, waking: None, lines: Vec::new() };
    let idle = || workload.run(bench.places.generator).map(drop);
    book.take(samples, &["proc_exit", "block_"], "filtered", idle)?;
    book.take(samples, &["proc_exit"], "submitted, critical", || die(Death::Killed, 0))?;
    book.take(samples, &["proc_exit"], "submitted, bulk", || die(Death::Failed, 0))?;
    book.waking = Some(bench.places.consumer);
    book.take(samples, &["proc_exit"], "submitted, waking", || die(Death::Killed, 2000))?;
    book.take(if bench.quick { 5 } else { 15 }, &["tcp_", "oom_"], "submitted, waking", faults)?;
    report_runs(&loaded, book.lines, report);
    Ok(())
}

/// An OOM kill and a retransmit storm, both in places of their own.
fn faults() -> Result<()> {
    inject::prepare("oom")?.inject(&[])?;
    let mut drill = Command::new(program::faultline()?);
    drill.args(["drill", "net"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    machine::bind(&mut drill, None);
    // Whether the drill passes is not the question here; its packets count.
    drill.status().context("cannot start the drill")?;
    Ok(())
}

/// A program's samples under one workload.
struct Line {
    program: &'static str,
    what: &'static str,
    ns_per_run: Vec<f64>,
    runs: u64,
}

struct Book<'a> {
    loaded: &'a Loaded,
    /// Emptied after each sample: a full ring would be measured as a cheap one.
    rings: Vec<RingBuf<MapData>>,
    /// A CPU whose thread empties the rings meanwhile: then each record finds its reader waiting, and raises the
    /// interrupt that wakes it, which is the dearest thing a program can do.
    waking: Option<usize>,
    lines: Vec<Line>,
}

impl Book<'_> {
    /// Runs a workload some times and keeps what the named programs took in each.
    fn take(
        &mut self,
        samples: usize,
        prefixes: &[&str],
        what: &'static str,
        mut workload: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut lines: Vec<Line> = Vec::new();
        for _ in 0..samples {
            let before = totals(self.loaded);
            self.run(&mut workload)?;
            for (old, new) in before.iter().zip(totals(self.loaded)) {
                let runs = new.runs - old.runs;
                if runs == 0 || !prefixes.iter().any(|prefix| new.program.starts_with(prefix)) {
                    continue;
                }
                let ns = (new.ns - old.ns) as f64 / runs as f64;
                match lines.iter_mut().find(|line| line.program == new.program) {
                    Some(line) => {
                        line.ns_per_run.push(ns);
                        line.runs += runs;
                    }
                    None => lines.push(Line { program: new.program, what, ns_per_run: vec![ns], runs }),
                }
            }
        }
        self.lines.append(&mut lines);
        Ok(())
    }

    fn run(&mut self, workload: &mut impl FnMut() -> Result<()>) -> Result<()> {
        let Some(cpu) = self.waking else {
            workload()?;
            empty(&mut self.rings);
            return Ok(());
        };
        let (done, rings) = (AtomicBool::new(false), &mut self.rings);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = machine::pin(cpu);
                while !done.load(Ordering::Acquire) {
                    empty(rings);
                }
            });
            let result = workload();
            done.store(true, Ordering::Release);
            result
        })
    }
}

fn empty(rings: &mut [RingBuf<MapData>]) {
    rings.iter_mut().for_each(|ring| while ring.next().is_some() {});
}

struct Total {
    program: &'static str,
    ns: u64,
    runs: u64,
}

fn totals(loaded: &Loaded) -> Vec<Total> {
    let number = |fd: &aya::programs::ProgramFd, key| fdinfo(fd.as_fd(), key).unwrap_or(0);
    let total = |(_, program, fd): &(u16, &'static str, _)| Total {
        program,
        ns: number(fd, "run_time_ns:"),
        runs: number(fd, "run_cnt:"),
    };
    loaded.programs.iter().map(total).collect()
}

fn report_runs(loaded: &Loaded, lines: Vec<Line>, report: &mut Report) {
    for line in &lines {
        let measure =
            Measure::new(format!("program.{} ({})", line.program, line.what), median(&line.ns_per_run), "ns/run");
        report.add(measure.within(median_interval(&line.ns_per_run)).note(format!("{} runs", line.runs)));
    }
    let ran = |program: &str| lines.iter().any(|line| line.program == program);
    let idle: Vec<_> = loaded.programs.iter().map(|p| p.1).filter(|program| !ran(program)).collect();
    let measured = loaded.programs.len() - idle.len();
    let measure = Measure::new("program.measured", measured as f64, "programs").note(idle.join(", "));
    report.add(measure.bar("every attached program ran", idle.is_empty()));
}

/// The workload with and without the agent.
///
/// # Errors
/// The agent cannot be started, or the workload fails.
pub fn measure_overhead(bench: &Bench, report: &mut Report) -> Result<()> {
    let workload = Workload::prepare()?;
    workload.run(bench.places.generator)?;
    let pairs = if bench.quick { 15 } else { 31 };
    let (mut with, mut without, mut control) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        // Each of the three is first in turn, so that a drift of the machine meets all alike.
        for turn in 0..3 {
            match (pair + turn) % 3 {
                0 => without.push(workload.run(bench.places.generator)?),
                1 => {
                    let agent = agent(&["run", "--json"])?;
                    with.push(workload.run(bench.places.generator)?);
                    agent.stop()?;
                }
                _ => control.push(workload.run(bench.places.generator)?),
            }
        }
    }
    let ratios = |above: &[f64]| above.iter().zip(&without).map(|(a, b)| a / b).collect::<Vec<_>>();
    for (name, above, note) in
        [("workload", &with, "agent against none"), ("workload.control", &control, "none against none")]
    {
        let per_pair = ratios(above);
        let measure =
            Measure::new(name, median(&per_pair) * median(&without) / 1e6, "ms").against(median(&without) / 1e6);
        let note = format!("{note}: median of {pairs} pairs, {SPAWNS} spawns and {READS} direct reads each");
        report.add(measure.within(median_interval(&per_pair)).note(note));
    }
    Ok(())
}

/// Starts the agent; returns when its programs are attached.
///
/// # Errors
/// It cannot be started.
pub fn agent(args: &[&str]) -> Result<Ignored> {
    let mut command = Command::new(program::faultline()?);
    command.args(args).stderr(Stdio::null());
    let mut agent = Owned::start(command, None)?;
    for _ in 0..faultline::sensor::SENSORS.len() {
        agent.line().context("the agent tells its health first")?;
    }
    Ok(agent.ignore())
}
