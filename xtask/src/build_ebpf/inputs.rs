//! The fingerprint of everything that the eBPF object is made from. In: the workspace root. Out: a 64-bit FNV-1a hash as hex.
//!
//! `build-ebpf` writes it beside the object and `agent/build.rs` (which includes this very file, hence std only) compares it with the sources
//! it sees, so that an agent can never embed an object of other sources. Content, not time stamps: a checkout sets all times to now.

use std::io;
use std::path::{Path, PathBuf};

/// Folders and files, relative to the workspace root, whose content decides the object.
pub const INPUTS: &[&str] = &["ebpf/src", "ebpf/Cargo.toml", "common/src", "common/Cargo.toml"];

/// Hashes names and contents of all inputs, in sorted order.
///
/// # Errors
/// An input is missing or cannot be read; the error names it.
pub fn fingerprint(workspace: &Path) -> io::Result<String> {
    let mut hash = Fnv::default();
    for file in files(workspace)? {
        let content = std::fs::read(&file).map_err(|error| named(&file, &error))?;
        let name = file.strip_prefix(workspace).unwrap_or(&file);
        hash.write(name.to_string_lossy().as_bytes());
        // Lengths keep (`ab`, `c`) and (`a`, `bc`) apart.
        hash.write(&(content.len() as u64).to_le_bytes());
        hash.write(&content);
    }
    Ok(format!("{:016x}", hash.0))
}

/// All input files, sorted.
///
/// # Errors
/// As [`fingerprint`].
pub fn files(workspace: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = INPUTS.iter().map(|input| workspace.join(input)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(|error| named(&path, &error))? {
                open.push(entry?.path());
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// FNV-1a, 64 bit: no dependency, and nobody attacks it here.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
