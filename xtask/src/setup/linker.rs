//! bpf-linker at a pinned version. In: nothing. Out: the path of a binary that reports that version.
//!
//! Pinned because the object's bytes depend on it. 0.10.3 is the last version that loads LLVM from the compiler at run time and so needs no
//! LLVM development files; look again when a newer one does that too.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cache, cargo, process, ui};

/// The version that objects are linked with.
pub const VERSION: &str = "0.10.3";

/// The pinned linker: from `PATH` if that is the very version, else from the cache, else built into the cache (one to two minutes).
///
/// # Errors
/// `cargo install` fails, usually for want of a network or a C linker.
pub fn ensure() -> Result<PathBuf> {
    if let Some(linker) = process::find("bpf-linker").filter(|path| is_pinned(path)) {
        return Ok(linker);
    }
    let home = cache::folder()?.join(format!("bpf-linker-{VERSION}"));
    let linker = home.join("bin/bpf-linker");
    if is_pinned(&linker) {
        return Ok(linker);
    }
    ui::step(&format!("build bpf-linker {VERSION} (one to two minutes)"), || cache::publish(&home, install))?;
    if !is_pinned(&linker) {
        bail!(
            "{} does not report version {VERSION}: remove its folder and run `cargo xtask setup` again",
            linker.display()
        );
    }
    Ok(linker)
}

fn is_pinned(linker: &Path) -> bool {
    let version = process::output(Command::new(linker).arg("--version")).unwrap_or_default();
    version.trim() == format!("bpf-linker {VERSION}")
}

/// Installs below `home`; objects go to a folder inside it that is removed again.
fn install(home: &Path) -> Result<()> {
    let objects = home.join("objects");
    let mut command = cargo::command();
    // Outside the workspace, so that its configuration and lock file have no say.
    command
        .current_dir(home)
        .args(["install", "bpf-linker", "--locked", "--quiet", "--version", VERSION, "--root"])
        .arg(home);
    command.arg("--target-dir").arg(&objects).stdin(Stdio::null());
    process::output(&mut command).with_context(|| {
        format!("bpf-linker is missing; by hand: `cargo install bpf-linker --version {VERSION} --locked`")
    })?;
    cache::remove(&objects)
}
