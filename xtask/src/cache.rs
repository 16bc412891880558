//! The cache folder `$XDG_CACHE_HOME/faultline` (else `~/.cache/faultline`): downloads that outlive a checkout.
//!
//! An entry is a folder that appears complete or not at all: it is filled under a temporary name in the same file system and then renamed,
//! under a lock that holds between processes. An interrupted download is therefore never used; its remains are removed by the next run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ui;

/// The cache folder; made when it is missing.
///
/// # Errors
/// Neither `XDG_CACHE_HOME` nor `HOME` is set, or the folder cannot be made.
pub fn folder() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .context("no cache folder: set HOME or XDG_CACHE_HOME to an absolute path")?;
    let folder = base.join("faultline");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the cache folder {}", folder.display()))?;
    Ok(folder)
}

/// Held while an entry is looked at or made; released on drop, and by the kernel if the process dies.
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

/// Takes the lock `NAME.lock` in the cache, waiting for another process (and saying so) where one holds it.
///
/// # Errors
/// The lock file cannot be made or locked.
pub fn lock(name: &str) -> Result<Lock> {
    let path = folder()?.join(format!("{name}.lock"));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = File::create(&path).with_context(|| format!("cannot make the lock file {}", path.display()))?;
    if file.try_lock().is_err() {
        ui::say(format!("  waiting for another xtask that holds {}", path.display()));
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(Lock(file))
}

/// Makes the entry `destination` by filling a temporary folder and renaming it. The caller holds a lock.
///
/// # Errors
/// `fill` failed (the temporary folder is removed), or the rename did.
pub fn publish(destination: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = destination.with_extension("partial");
    remove(&temporary)?;
    fs::create_dir_all(&temporary).with_context(|| format!("cannot make {}", temporary.display()))?;
    fill(&temporary).inspect_err(|_| {
        let _ = remove(&temporary);
    })?;
    remove(destination)?;
    fs::rename(&temporary, destination)
        .with_context(|| format!("cannot rename {} to {}", temporary.display(), destination.display()))
}

/// Removes a folder that may not exist.
///
/// # Errors
/// It exists and cannot be removed.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Writes `bytes` only when the file differs, so that its time stamp tells when the content changed. Returns whether it wrote.
///
/// # Errors
/// The file or its folder cannot be written.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let temporary = path.with_extension("partial");
    fs::write(&temporary, bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, path)
        .with_context(|| format!("cannot rename {} to {}", temporary.display(), path.display()))?;
    Ok(true)
}
