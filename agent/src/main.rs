//! The `faultline` binary. In: the command line. Out: lines on standard output, an exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    faultline::cli::main()
}
