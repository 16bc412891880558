//! `cargo xtask <command>`: every developer command of faultline, one file (or folder) per command.
//!
//! In: a command line. Out: an exit status, 0 only when the command did what it says. The shipped binary never needs any of this;
//! it exists so that a clean clone needs cargo and nothing else that has to be remembered.

mod apt;
mod bench;
mod build_ebpf;
mod cache;
mod cargo;
mod ci;
mod manifest;
mod process;
mod run;
mod setup;
mod test;
mod ui;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of faultline.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Run(run::Args),
    Test(test::Args),
    Vm(vm::Args),
    Bench(bench::Args),
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::main(&args),
        Command::BuildEbpf(args) => build_ebpf::main(&args),
        Command::Run(args) => run::main(&args),
        Command::Test(args) => test::main(&args),
        Command::Vm(args) => vm::main(&args),
        Command::Bench(args) => bench::main(&args),
        Command::Ci(args) => ci::main(&args),
    };
    result.unwrap_or_else(|error| {
        ui::error(&error);
        ExitCode::from(2)
    })
}
