//! Where `faultline` is. In: the environment and the place of this program. Out: a path.
//!
//! `FAULTLINE_BIN` first; then the program beside this one (a VM, an installation). Under `cargo test` the
//! library is built but the program is not, so cargo is asked for it once, in the same profile: a test must
//! never run yesterday's agent.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use anyhow::{Context, Result, ensure};

static PATH: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| find().map_err(|error| format!("{error:#}")));

/// The program.
///
/// # Errors
/// There is none, or it could not be built.
pub fn faultline() -> Result<&'static Path> {
    PATH.as_deref().map_err(|error| anyhow::anyhow!("no faultline to test: {error}"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FAULTLINE_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("where this program is")?;
    let folder = own.parent().context("a program lies in a folder")?;
    if folder.file_name().is_some_and(|name| name == "deps") {
        return build(folder.parent().context("deps lies in a folder")?);
    }
    let path = folder.join("faultline");
    ensure!(path.is_file(), "{} is not there; build it or set FAULTLINE_BIN", path.display());
    Ok(path)
}

/// Asks cargo for the program in the profile that this test was built in.
fn build(folder: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--quiet", "--package", "faultline", "--package", "faultline-tests"]);
    command.args(["--bin", "faultline", "--target-dir"]).arg(folder.parent().context("a profile lies in a folder")?);
    if folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "`{command:?}` ended with {status}");
    Ok(folder.join("faultline"))
}
