//! `cargo xtask run -- ARGS`: from a clean clone to a running agent. In: arguments of `faultline run`. Out: its output and exit status.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::{build_ebpf, cargo, process, ui, workspace};

/// Set up, build everything, and run the agent on this machine (as root, through sudo where needed).
#[derive(clap::Args)]
#[command(after_help = "Example:\n  cargo xtask run -- --for 20s\n  cargo xtask run -- --json --record /tmp/recording")]
pub struct Args {
    /// Arguments of `faultline run`.
    #[arg(last = true, value_name = "ARGS")]
    arguments: Vec<String>,
}

/// Runs the command; on success this process becomes the agent and does not come back.
///
/// # Errors
/// Something cannot be built, or there is no way to root.
pub fn main(args: &Args) -> Result<ExitCode> {
    build_ebpf::build()?;
    ui::step("build the agent", || {
        process::run(cargo::command().args(["build", "--quiet", "--release", "--package", "faultline"]))
    })?;
    let mut command = as_root(&workspace::target().join("release/faultline"))?;
    command.arg("run").args(&args.arguments);
    ui::say(format!("> {}", process::describe(&command)));
    // exec: signals of the terminal or a supervisor reach the agent itself.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", process::describe(&command)))
}

/// `program`, through sudo unless this is root already.
///
/// # Errors
/// This is not root and there is no sudo.
pub fn as_root(program: &Path) -> Result<Command> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = process::find("sudo") else {
        bail!("loading eBPF programs needs root and there is no sudo here: run `{}` as root", program.display());
    };
    let mut command = Command::new(sudo);
    command.arg("--").arg(program);
    Ok(command)
}
