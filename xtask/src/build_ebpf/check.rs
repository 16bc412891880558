//! `build-ebpf --check`: the object depends on its sources and the toolchain, and on nothing else. In: this work tree. Out: exit status 0 and
//! one SHA-256, or 1 and the first section that differs.
//!
//! Two copies of the work tree under paths of different length, two cargo homes, empty target folders, one toolchain.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use super::{Place, compile, elf};
use crate::setup::{self, TARGET, Toolchain};
use crate::{cache, cargo, process, ui, workspace};

/// Builds twice and compares.
///
/// # Errors
/// A build fails; a difference is no error but exit status 1.
pub fn main() -> Result<ExitCode> {
    let toolchain = setup::ensure(false)?;
    let scratch = std::env::temp_dir().join(format!("faultline-check-{}", std::process::id()));
    let verdict = compare(&toolchain, &scratch);
    cache::remove(&scratch)?;
    verdict
}

fn compare(toolchain: &Toolchain, scratch: &Path) -> Result<ExitCode> {
    let here = Place::here(&workspace::root())?;
    let first = ui::step("first build", || build(toolchain, &here.cargo_home, &scratch.join("a")))?;
    let second = ui::step("second build, other path and cargo home", || {
        let home = scratch.join("another-cargo-home");
        seed(&here.cargo_home, &home)?;
        build(toolchain, &home, &scratch.join("a-much-longer-path/to/the same checkout"))
    })?;
    let (first_sum, second_sum) = (sum(&first)?, sum(&second)?);
    ui::say(format!("{first_sum}  first build\n{second_sum}  second build"));
    if first_sum == second_sum {
        ui::say("identical");
        return Ok(ExitCode::SUCCESS);
    }
    ui::say(format!("different, first in {}", difference(&fs::read(&first)?, &fs::read(&second)?)?));
    Ok(ExitCode::FAILURE)
}

fn build(toolchain: &Toolchain, cargo_home: &Path, folder: &Path) -> Result<PathBuf> {
    let checkout = folder.join("checkout");
    copy_work_tree(&workspace::root(), &checkout)?;
    let place =
        Place { target: checkout.join("target/bpf-build"), workspace: checkout, cargo_home: cargo_home.to_path_buf() };
    fetch(&place)?;
    let made = compile(toolchain, &place)?;
    let object = folder.join(super::OBJECT);
    fs::write(&object, elf::without_debug(&fs::read(&made)?)?)?;
    Ok(object)
}

/// Copies what git tracks or would track.
fn copy_work_tree(from: &Path, to: &Path) -> Result<()> {
    let mut git = Command::new("git");
    git.current_dir(from).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    for name in process::output(&mut git)?.split('\0').filter(|name| !name.is_empty()) {
        let (source, copy) = (from.join(name), to.join(name));
        if !source.is_file() {
            continue; // deleted, not yet committed
        }
        if let Some(parent) = copy.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&source, &copy).with_context(|| format!("cannot copy {}", source.display()))?;
    }
    Ok(())
}

/// Gives a new cargo home the configuration (it may name a mirror) and the downloads of the old one; sources are unpacked anew.
fn seed(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.join("registry"))?;
    for name in ["config.toml", "registry/index", "registry/cache"] {
        let source = from.join(name);
        if source.exists() {
            process::output(Command::new("cp").arg("-r").arg(&source).arg(to.join(name)))?;
        }
    }
    Ok(())
}

/// Unpacks the sources before the build, so that the folders whose names must be hidden are there to be listed.
fn fetch(place: &Place) -> Result<()> {
    let mut command = cargo::command();
    command.current_dir(&place.workspace).env("CARGO_HOME", &place.cargo_home);
    process::output(command.args(["fetch", "--quiet", "--target", TARGET])).map(drop)
}

fn sum(file: &Path) -> Result<String> {
    let text = process::output(Command::new("sha256sum").arg(file))?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Names the first section that differs.
fn difference(first: &[u8], second: &[u8]) -> Result<String> {
    let (first, second) = (elf::sections(first)?, elf::sections(second)?);
    for (left, right) in first.iter().zip(&second) {
        if left.name != right.name {
            return Ok(format!("the section table: `{}` against `{}`", left.name, right.name));
        }
        if left.data != right.data {
            let at = left.data.iter().zip(right.data).position(|(a, b)| a != b).unwrap_or(0);
            let sizes = (left.data.len(), right.data.len());
            return Ok(format!("section `{}` at byte {at} ({} and {} bytes)", left.name, sizes.0, sizes.1));
        }
    }
    if first.len() != second.len() {
        bail!("{} sections against {}", first.len(), second.len());
    }
    Ok("the headers".to_owned())
}
