//! One test at a time. In: nothing. Out: a guard; while it lives no other test of this machine makes faults.
//!
//! An agent sees the whole machine, so two tests at once would see each other's faults. A file lock and not a
//! mutex, because test programs are processes of their own.

use std::fs::{File, OpenOptions};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// Holds the machine while it lives.
#[derive(Debug)]
pub struct Machine(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// Waits for the machine.
///
/// # Errors
/// The lock file cannot be made.
pub fn machine() -> Result<Machine> {
    let path = std::env::temp_dir().join("faultline-tests.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot use the lock file {}", path.display()))?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(Machine(lock)),
        Err((file, _)) => file,
    };
    eprintln!("waiting for another test of this machine to end (it holds {})", path.display());
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(Machine(lock)),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Whether this process is root, with a reason to print where a test needs it.
pub fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test}: skipped, it needs root");
    }
    root
}
