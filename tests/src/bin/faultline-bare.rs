//! `faultline-bare`: the least that can take events from the agent's ring, for comparison. In: how to wait, how many
//! events, how many to warm up, whose. Out: one time per event, kernel to here. With `act`: what to write where for whose
//! crash in, and for each the kernel's time and that of the end of the write out. Started by `faultline-bench`.

use std::{io::Write, process::ExitCode};

use faultline_tests::bench::{actor, consumer};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((word, rest)) if word == actor::ROLE => actor::main(rest),
        _ => consumer::bare(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "faultline-bare: {error:#}");
            ExitCode::FAILURE
        }
    }
}
