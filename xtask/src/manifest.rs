//! What was unpacked, so that a damaged or half-removed cache is seen. In: a folder. Out: `manifest.json` in it, or what no longer fits.
//!
//! apt verifies every package against the signed archive before it is unpacked. The manifest carries that over to later runs: the packages'
//! SHA-256, and size and SHA-256 of every unpacked file. Sizes are compared at every use (milliseconds), hashes with `setup --verify`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process;

const NAME: &str = "manifest.json";

/// Files given to one `sha256sum`; keeps command lines short.
const BATCH: usize = 500;

#[derive(Serialize, Deserialize)]
struct Manifest {
    /// File name of each package, with its SHA-256.
    packages: BTreeMap<String, String>,
    /// Path below the folder, with size and SHA-256.
    files: BTreeMap<PathBuf, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// SHA-256 of files, by file name.
///
/// # Errors
/// A file cannot be read, or there is no `sha256sum`.
pub fn hash(files: &[PathBuf]) -> Result<BTreeMap<String, String>> {
    let hashes = sums(files)?;
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(files.iter().map(name).zip(hashes).collect())
}

/// Records every file below `folder`.
///
/// # Errors
/// A file cannot be read, or the manifest not written.
pub fn write(folder: &Path, packages: &BTreeMap<String, String>) -> Result<()> {
    let files = walk(folder)?;
    let mut entries = BTreeMap::new();
    for (path, sha256) in files.iter().zip(sums(&files)?) {
        let bytes = fs::metadata(path)?.len();
        entries.insert(path.strip_prefix(folder)?.to_path_buf(), Entry { bytes, sha256 });
    }
    let manifest = Manifest { packages: packages.clone(), files: entries };
    fs::write(folder.join(NAME), serde_json::to_vec_pretty(&manifest)?).context("cannot write the manifest")
}

/// Compares the folder with its manifest; with `full`, also the content of every file.
///
/// # Errors
/// There is no manifest, or the first file that does not fit.
pub fn check(folder: &Path, full: bool) -> Result<()> {
    let text = fs::read(folder.join(NAME)).context("no manifest")?;
    let manifest: Manifest = serde_json::from_slice(&text).context("the manifest cannot be read")?;
    for (path, entry) in &manifest.files {
        let bytes = fs::metadata(folder.join(path)).with_context(|| format!("{} is missing", path.display()))?.len();
        if bytes != entry.bytes {
            bail!("{} has {bytes} bytes instead of {}", path.display(), entry.bytes);
        }
    }
    if full { check_content(folder, &manifest) } else { Ok(()) }
}

fn check_content(folder: &Path, manifest: &Manifest) -> Result<()> {
    let files: Vec<PathBuf> = manifest.files.keys().map(|path| folder.join(path)).collect();
    for ((path, entry), sum) in manifest.files.iter().zip(sums(&files)?) {
        if sum != entry.sha256 {
            bail!("{} has another content than was unpacked", path.display());
        }
    }
    Ok(())
}

/// Regular files below `folder`, sorted; links are part of the packages but carry no content.
fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

fn sums(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut sums = Vec::with_capacity(files.len());
    for batch in files.chunks(BATCH) {
        let text = process::output(Command::new("sha256sum").arg("--zero").arg("--").args(batch))?;
        sums.extend(text.split('\0').filter(|line| !line.is_empty()).map(|line| line[..64].to_owned()));
    }
    if sums.len() != files.len() {
        bail!("sha256sum gave {} sums for {} files", sums.len(), files.len());
    }
    Ok(sums)
}
