//! The benchmark: the numbers behind every claim of speed. In: what to measure. Out: a table or JSON lines, and whether
//! every bar was met.
//!
//! Speed is told as ratios of things measured in the same run, interleaved, with an A/A control that shows what chance
//! alone does; absolute numbers belong to the machine that printed them. Children, loop devices and cgroups are its own.

pub mod acting;
pub mod actor;
pub mod alloc;
pub mod consumer;
pub mod footprint;
pub mod generator;
pub mod hands;
pub mod machine;
pub mod memory;
pub mod programs;
pub mod rate;
pub mod reaction;
pub mod report;
pub mod restart;
pub mod ring;
pub mod stats;
pub mod steady;
pub mod synthetic;
pub mod workload;

use anyhow::{Result, bail, ensure};

use machine::{Places, Scratch};
use report::Report;

/// What measurements share.
#[derive(Debug)]
pub struct Bench {
    /// Fewer and shorter rounds.
    pub quick: bool,
    /// Who runs where.
    pub places: Places,
    /// For files.
    pub scratch: Scratch,
}

type Measurement = fn(&Bench, &mut Report) -> Result<()>;

/// Every measurement by its word.
const ALL: [(&str, Measurement); 9] = [
    ("programs", programs::measure_runs),
    ("overhead", programs::measure_overhead),
    ("reaction", reaction::measure),
    ("hands", hands::measure),
    ("restart", restart::measure),
    ("engine", rate::measure),
    ("ring", ring::measure),
    ("footprint", footprint::measure),
    ("allocations", steady::measure),
];

const USAGE: &str = "faultline-bench [--json] [--quick] [--only NAME]...

Measures on this machine, as root. Exit status: 0 every bar met, 1 a bar missed, 2 bad arguments.

  --json        one JSON object a line
  --quick       fewer and shorter rounds: under three minutes
  --only NAME   only this: programs, overhead, reaction, hands, restart, engine, ring, footprint, allocations;
                with `cargo xtask bench` also rivals, which is in a VM";

/// How it was asked for.
#[derive(Debug, Default)]
pub struct Options {
    json: bool,
    quick: bool,
    help: bool,
    only: Vec<String>,
}

impl Options {
    /// From the command line.
    ///
    /// # Errors
    /// An argument that is none.
    pub fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "--json" => options.json = true,
                "--quick" => options.quick = true,
                "--help" | "-h" => options.help = true,
                "--only" => match args.next() {
                    Some(name) if ALL.iter().any(|(word, _)| *word == name) => options.only.push(name.to_owned()),
                    other => bail!("--only {}: no such measurement\n\n{USAGE}", other.unwrap_or("")),
                },
                other => bail!("`{other}` is no argument\n\n{USAGE}"),
            }
        }
        Ok(options)
    }

    fn wants(&self, word: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == word)
    }
}

/// Measures; true when every bar was met.
///
/// # Errors
/// This machine cannot hold the benchmark at all. A single measurement that fails is in the report.
pub fn run(options: &Options) -> Result<bool> {
    if options.help {
        use std::io::Write as _;
        writeln!(std::io::stdout(), "{USAGE}")?;
        return Ok(true);
    }
    ensure!(nix::unistd::geteuid().is_root(), "the benchmark loads BPF programs: run it as root");
    // Tests make faults, which would be in the numbers.
    let _machine = crate::lock::machine()?;
    let bench = Bench { quick: options.quick, places: Places::find()?, scratch: Scratch::new()? };
    let mut report = Report::new(options.json);
    for (word, measurement) in ALL.iter().filter(|(word, _)| options.wants(word)) {
        if let Err(error) = measurement(&bench, &mut report) {
            report.fail(word, &error);
        }
    }
    Ok(report.finish())
}

/// One of the processes that the benchmark starts of itself.
///
/// # Errors
/// It failed at its task.
pub fn role(args: &[String]) -> Result<()> {
    match args {
        [role, rest @ ..] if role == "generate" => generator::main(rest),
        [role, rest @ ..] if role == "consume" => consumer::agent(rest),
        _ => bail!("no such role"),
    }
}
