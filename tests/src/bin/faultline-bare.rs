//! `faultline-bare`: the least that can take events from the agent's ring, for comparison. In: how to wait, how many
//! events, how many to warm up, whose. Out: one time per event, kernel to here. Started by `faultline-bench`.

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match faultline_tests::bench::consumer::bare(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "faultline-bare: {error:#}");
            ExitCode::FAILURE
        }
    }
}
