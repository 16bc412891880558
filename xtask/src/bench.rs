//! `cargo xtask bench`: the numbers behind every claim of speed. In: what to measure. Out: the table (or JSON) of `faultline-bench`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::run::as_root;
use crate::{build_ebpf, cargo, process, ui, workspace};

/// Build optimised and measure: program cost, reaction time, engine rate, loss, memory.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Arguments of `faultline-bench`.
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Something cannot be built, there is no way to root, or the benchmark cannot be started.
pub fn main(args: &Args) -> Result<ExitCode> {
    build_ebpf::build()?;
    let mut build = cargo::command();
    // All programs of both packages: the benchmark starts the agent and the bare ring consumer that it is compared with.
    build.args(["build", "--quiet", "--release", "--package", "faultline", "--package", "faultline-tests", "--bins"]);
    ui::step("build the benchmarks", || process::run(&mut build))?;
    let mut command = as_root(&workspace::target().join("release/faultline-bench"))?;
    command.args(args.json.then_some("--json")).args(&args.arguments).current_dir(workspace::root());
    let status = command.status().with_context(|| format!("cannot start `{}`", process::describe(&command)))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
