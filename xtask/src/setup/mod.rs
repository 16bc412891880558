//! `cargo xtask setup`: finds or makes the BPF toolchain. In: this machine. Out: a [`Toolchain`] that was seen to work.
//!
//! Two ways, tried in order, neither of which installs anything system-wide or changes the user's rustup:
//! a rustup nightly that has rust-src (core is built with the program), else Debian's `rustc-web` packages with a ready-made core, unpacked
//! into the cache. Mixing them (nightly compiler, Debian's core source) fails in lang items. Adding rust-src to the user's nightly is not done:
//! the component must match the installed nightly, which servers drop after a while, and it would change something that is not ours.

mod debian;
mod linker;
mod nightly;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{cache, cargo, ui};

/// The one target that the kernel side is built for.
pub const TARGET: &str = "bpfel-unknown-none";

/// Find or make the BPF toolchain (no system-wide install, no questions).
///
/// Uses a rustup nightly with rust-src where there is one. Else unpacks Debian's rustc-web packages into $XDG_CACHE_HOME/faultline
/// (or ~/.cache/faultline), verified by apt, and pins bpf-linker there. Safe to run twice, or twice at once.
#[derive(clap::Args)]
pub struct Args {
    /// Hash every unpacked file again, not only compare sizes.
    #[arg(long)]
    verify: bool,
}

/// A compiler, a core library and a linker for the BPF target.
pub struct Toolchain {
    /// One line for people: which compiler, from where.
    pub description: String,
    /// Environment that makes cargo use it.
    pub environment: Vec<(String, String)>,
    /// Arguments that cargo needs, such as `-Zbuild-std=core`.
    pub cargo_arguments: Vec<String>,
    /// Toolchain argument for rustup's cargo (`+nightly`), where the compiler is rustup's.
    pub channel: Option<String>,
    /// Where the core library's source may appear in debug information.
    pub sources: Vec<PathBuf>,
    /// bpf-linker.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Cargo in the workspace root that compiles with this toolchain; the caller adds the sub-command.
    pub fn cargo(&self) -> Command {
        let mut command = match &self.channel {
            // CARGO names the outer toolchain's cargo, which knows no `+channel`.
            Some(channel) => {
                let mut command = Command::new("rustup");
                command.args(["run", channel, "cargo"]);
                cargo::clean(&mut command);
                command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
                command.current_dir(crate::workspace::root());
                command
            }
            None => cargo::command(),
        };
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "RUSTC"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        command
    }
}

/// Runs the command.
///
/// # Errors
/// The machine has no way to a toolchain; the message says what is missing and how to get it.
pub fn main(args: &Args) -> Result<ExitCode> {
    let clock = ui::Clock::start();
    let toolchain = ensure(args.verify)?;
    ui::say(format!("compiler: {}", toolchain.description));
    ui::say(format!("linker:   bpf-linker {} ({})", linker::VERSION, toolchain.linker.display()));
    ui::say(format!("ready ({})", clock.text()));
    Ok(ExitCode::SUCCESS)
}

/// The toolchain, made where it is missing. Quick (under a second) once it is there.
///
/// # Errors
/// As [`main`].
pub fn ensure(verify: bool) -> Result<Toolchain> {
    let _lock = cache::lock("toolchain")?;
    let linker = linker::ensure()?;
    if let Some(toolchain) = nightly::find(&linker) {
        return Ok(toolchain);
    }
    debian::ensure(&linker, verify).or_else(|error| bail!("{error:#}\n{HELP}"))
}

/// What to do by hand, for a machine on which neither way works.
const HELP: &str = "\
No BPF toolchain here, and none could be fetched. What is missing is a compiler with a core library for bpfel-unknown-none. Get one with
    rustup toolchain install nightly --component rust-src
and run `cargo xtask setup` again (it installs bpf-linker into the cache by itself). On a machine without network, copy the faultline cache
folder of another machine.";
