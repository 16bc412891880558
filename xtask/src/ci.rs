//! `cargo xtask ci`: what `.ci/run` calls on a fresh machine. In: a clean clone. Out: exit status 0 only when everything holds.

use std::process::ExitCode;

use anyhow::Result;

use crate::test;

/// All of `test`, and what only a build server has the patience for (the eBPF object is reproducible).
#[derive(clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// As [`test::run`].
pub fn main(_args: &Args) -> Result<ExitCode> {
    test::run(&test::STEPS.iter().chain(test::CI_ONLY).collect::<Vec<_>>())
}
