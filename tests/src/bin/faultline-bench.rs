//! `faultline-bench`: measures the agent on this machine. In: the command line. Out: a table or JSON lines; exit status 0
//! when every bar is met, 1 when not, 2 for bad arguments.

use std::{io::Write, process::ExitCode};

use faultline_tests::bench::{self, Options, alloc::Counting};

/// Counts what the reactor's path allocates.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((word, rest)) if word == "role" => bench::role(rest).map(|()| true),
        _ => match Options::parse(&args) {
            Ok(options) => bench::run(&options),
            Err(error) => return say(&error, 2),
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => say(&error, 1),
    }
}

fn say(error: &anyhow::Error, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "faultline-bench: {error:#}");
    ExitCode::from(status)
}
