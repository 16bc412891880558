//! `cargo xtask bench`: the numbers behind every claim of speed. In: what to measure. Out: the table (or JSON) of `faultline-bench`, and
//! behind it that of `faultline-case rivals`.
//!
//! The rivals are in a VM, because one of them kills by itself. It is a comparison without a bar: where no VM can be had, that is said, and
//! the rest counts.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::run::as_root;
use crate::{build_ebpf, cargo, process, ui, vm, workspace};

/// The word of the part in the VM.
const RIVALS: &str = "rivals";

/// Build optimised and measure: program cost, reaction time, engine rate, loss, memory.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// Arguments of `faultline-bench`; it also takes `--only rivals`, for the comparison in a VM.
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
    let wanted = Wanted::of(&args.arguments);
    let here = if wanted.here { here(args.json, &wanted.arguments)? } else { 0 };
    let there = if wanted.rivals { rivals(args.json, &wanted.arguments) } else { 0 };
    Ok(ExitCode::from(if here == 0 { there } else { here }))
}

/// What to measure where.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    here: bool,
    rivals: bool,
    /// For `faultline-bench`, which does not know the rivals.
    arguments: Vec<String>,
}

impl Wanted {
    fn of(typed: &[String]) -> Self {
        let (mut arguments, mut rivals, mut others) = (Vec::new(), false, false);
        let mut words = typed.iter();
        while let Some(word) = words.next() {
            match (word.as_str(), words.as_slice().first()) {
                ("--only", Some(name)) if name == RIVALS => {
                    rivals = true;
                    words.next();
                }
                (word, _) => {
                    others |= word == "--only";
                    arguments.push(word.to_owned());
                }
            }
        }
        // Who asks for help wants to read, and whoever names nothing gets everything.
        let help = arguments.iter().any(|word| word == "--help" || word == "-h");
        Self { here: others || !rivals || help, rivals: !help && (rivals || !others), arguments }
    }
}

/// On this machine; the exit status.
fn here(json: bool, arguments: &[String]) -> Result<u8> {
    let mut command = as_root(&workspace::target().join("release/faultline-bench"))?;
    command.args(json.then_some("--json")).args(arguments).current_dir(workspace::root());
    let status = command.status().with_context(|| format!("cannot start `{}`", process::describe(&command)))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// In a VM; the exit status. Without a VM there is nothing to be said against anybody: 0.
fn rivals(json: bool, arguments: &[String]) -> u8 {
    let has = |option: &str| arguments.iter().any(|word| word == option);
    let words = [(json || has("--json"), "json"), (has("--quick"), "quick")];
    let words = words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned());
    let done = vm::rivals(words)
        .and_then(|request| vm::run(&request, Box::new(std::io::stdout()), Box::new(std::io::stderr())));
    match done {
        Ok(outcome) => outcome.status,
        Err(error) => {
            ui::say(format!("left out: the comparison with earlyoom, which needs a VM: {error:#}"));
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(line: &str) -> (bool, bool, String) {
        let typed: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let wanted = Wanted::of(&typed);
        (wanted.here, wanted.rivals, wanted.arguments.join(" "))
    }

    #[test]
    fn the_rivals_are_left_out_unless_everything_or_they_are_wanted() {
        assert_eq!(wanted(""), (true, true, String::new()));
        assert_eq!(wanted("--quick"), (true, true, "--quick".into()));
        assert_eq!(wanted("--only hands --quick"), (true, false, "--only hands --quick".into()));
        assert_eq!(wanted("--only rivals --quick"), (false, true, "--quick".into()));
        assert_eq!(wanted("--only rivals --only hands"), (true, true, "--only hands".into()));
        assert_eq!(wanted("--help"), (true, false, "--help".into()));
    }
}
