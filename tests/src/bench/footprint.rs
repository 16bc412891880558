//! (e) What the agent takes. In: the real agent, idle and under 10,000 events a second. Out: memory, CPU and kernel
//! memory.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use faultline::{clock::monotonic_ns, config::Config, sensor::loader};

use super::{
    Bench,
    generator::{self, Death, Order},
    machine::{self, Ignored},
    programs::agent,
    report::{Measure, Report},
};

const MEMORY_MB: f64 = 25.0;
const IDLE_PERCENT: f64 = 0.2;
const RATE: u64 = 10_000;
/// Time for start-up's own work to end.
const SETTLE: Duration = Duration::from_secs(3);

/// Idle first, then busy.
///
/// # Errors
/// The agent cannot be started or does not end well.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let config = bench.scratch.path("footprint.toml");
    fs::write(&config, machine::config("never", "")?.1).context("cannot write a configuration")?;
    let path = config.to_str().context("a path of plain text")?;
    let agent = agent(&["run", "--json", "--config", path])?;
    machine::wait(SETTLE);
    memory("idle", &agent, report)?;
    idle(bench, &agent, report)?;
    busy(bench, &agent, report)?;
    memory("after the load", &agent, report)?;
    agent.stop()?;
    kernel_memory(report)
}

fn memory(when: &str, agent: &Ignored, report: &mut Report) -> Result<()> {
    let (all, maps) = machine::resident(agent.pid())?;
    let own = (all - maps) as f64 / 1e6;
    let measure = Measure::new(format!("memory.rss ({when})"), own, "MB");
    let note = format!("without {:.2} MB of mapped BPF maps", maps as f64 / 1e6);
    report.add(measure.note(note).bar("<= 25 MB", own <= MEMORY_MB));
    Ok(())
}

fn idle(bench: &Bench, agent: &Ignored, report: &mut Report) -> Result<()> {
    let seconds = if bench.quick { 10 } else { 60 };
    let (cpu, begin) = (machine::cpu_seconds(agent.pid())?, monotonic_ns());
    machine::wait(Duration::from_secs(seconds));
    let percent = share(agent, cpu, begin)?;
    let measure = Measure::new("cpu.idle (sleeping mode)", percent, "%").note(format!("of one CPU over {seconds} s"));
    report.add(measure.bar("<= 0.2 %", percent <= IDLE_PERCENT));
    Ok(())
}

fn busy(bench: &Bench, agent: &Ignored, report: &mut Report) -> Result<()> {
    let order = Order { count: RATE * if bench.quick { 3 } else { 10 }, rate: RATE, death: Death::Mixed };
    let (cpu, begin) = (machine::cpu_seconds(agent.pid())?, monotonic_ns());
    let made = generator::start(order, "fl-bench-load", bench.places.generator)?.finish()?;
    let percent = share(agent, cpu, begin)?;
    let note = format!("of one CPU at {:.0} events/s, each printed as a line", made.rate());
    report.add(Measure::new("cpu.busy (sleeping mode)", percent, "%").note(note));
    Ok(())
}

/// CPU time since then, in percent of the time that passed.
fn share(agent: &Ignored, cpu: f64, begin_ns: u64) -> Result<f64> {
    let (cpu, ns) = (machine::cpu_seconds(agent.pid())? - cpu, monotonic_ns() - begin_ns);
    Ok(100.0 * cpu * 1e9 / ns as f64)
}

fn kernel_memory(report: &mut Report) -> Result<()> {
    let loaded = loader::load(&machine::facts(), &Config::default(), &loader::Options::default())?;
    let measure =
        Measure::new("memory.maps", loaded.map_bytes.iter().map(|(_, bytes)| bytes).sum::<u64>() as f64 / 1e6, "MB");
    report.add(measure.note("kernel memory of all maps, default sizes, as the kernel charges it"));
    Ok(())
}
