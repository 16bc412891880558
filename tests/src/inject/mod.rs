//! Faults on demand. In: the name of one. Out: a fault that is ready to happen, then the truth about it.
//!
//! Preparing (a cgroup, a module, a device) and injecting are two steps: what an agent meets at its start is no
//! fault, and what exists before it starts has a name from the first line on. Dropping takes everything down.

pub mod child;
pub mod connections;
pub mod crash;
pub mod disk;
pub mod hang;
pub mod net;
pub mod oom;

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::truth::Expected;

/// A prepared fault.
pub trait Injector {
    /// The word that it was prepared by.
    fn name(&self) -> &'static str;
    /// The sensor that feels it.
    fn sensor(&self) -> &'static str;
    /// Makes it happen, to its end. `missing`: the fields that the sensor's health says this kernel does not tell.
    ///
    /// # Errors
    /// It could not be done.
    fn inject(&mut self, missing: &[String]) -> Result<Expected>;
}

/// Those of the recordings. The last three need modules, hence a VM.
pub const RECORDED: [&str; 6] = ["crash", "crash-loop", "oom", "slow-disk", "io-error", "net"];
/// All of them.
pub const NAMES: [&str; 10] =
    ["crash", "crash-loop", "oom", "slow-disk", "io-error", "net", "refused", "reset", "nowhere", "hang"];

/// Prepares a fault.
///
/// # Errors
/// There is none of that name, or this machine cannot hold it.
pub fn prepare(name: &str) -> Result<Box<dyn Injector>> {
    Ok(match name {
        "crash" => Box::new(crash::Crash),
        "crash-loop" => Box::new(crash::CrashLoop),
        "oom" => Box::new(oom::Oom::prepare()?),
        "slow-disk" => Box::new(disk::SlowDisk::prepare()?),
        "io-error" => Box::new(disk::BadDisk::prepare()?),
        "net" => Box::new(net::LossyLink::prepare()?),
        "refused" => Box::new(connections::Refused),
        "reset" => Box::new(connections::Reset),
        "nowhere" => Box::new(connections::Nowhere::prepare()?),
        "hang" => Box::new(hang::Hang::prepare()?),
        _ => bail!("no fault `{name}`: choose from {}", NAMES.join(", ")),
    })
}

/// `uname -r`.
///
/// # Errors
/// What uname(2) says.
pub fn kernel_release() -> Result<String> {
    let names = nix::sys::utsname::uname().context("uname")?;
    Ok(names.release().to_string_lossy().into_owned())
}

/// Runs a tool of the guest (`ip`, `tc`, `modprobe`) that must succeed.
fn tool(words: &[&str]) -> Result<()> {
    let done = Command::new(words[0]).args(&words[1..]).output();
    let done = done.with_context(|| format!("cannot start {}", words[0]))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`{}` ended with {}: {}", words.join(" "), done.status, said.trim());
    Ok(())
}
