//! Archives that the kernel unpacks into its first root file system. In: folders, files, links, device nodes. Out: one uncompressed `newc`
//! archive; several of them may follow each other in one file.
//!
//! Own code: forty lines instead of a host tool that writes device nodes only as root. Uncompressed, because unpacking costs guest time.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// Where Debian's merged layout keeps what used to lie at the top.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// An archive that is being written.
pub struct Archive<W> {
    out: W,
    written: usize,
    number: u32,
    known: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, number: 0, known: BTreeSet::new() }
    }

    /// Adds a folder and those above it.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn folder(&mut self, path: &Path) -> Result<()> {
        let path = merged(path);
        let mut sofar = PathBuf::new();
        for part in path.components() {
            sofar.push(part);
            if self.known.insert(sofar.clone()) {
                self.entry(&sofar, DIRECTORY | 0o755, &[], (0, 0))?;
            }
        }
        Ok(())
    }

    /// Adds a file with these bytes.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn bytes(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
        self.parent(path)?;
        self.entry(&merged(path), FILE | mode, bytes, (0, 0))
    }

    /// Adds a copy of a file of this machine, with its mode.
    ///
    /// # Errors
    /// The file cannot be read, or the archive not written.
    pub fn file(&mut self, path: &Path, source: &Path) -> Result<()> {
        let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = fs::metadata(source)?.permissions().mode() & 0o7777;
        self.bytes(path, mode, &bytes)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn link(&mut self, path: &Path, to: &Path) -> Result<()> {
        self.parent(path)?;
        self.entry(&merged(path), LINK | 0o777, to.as_os_str().as_encoded_bytes(), (0, 0))
    }

    /// Adds the links by which the old top-level names reach the merged layout.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn merge_links(&mut self) -> Result<()> {
        for name in MERGED {
            self.entry(Path::new(name), LINK | 0o777, format!("usr/{name}").as_bytes(), (0, 0))?;
        }
        Ok(())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn device(&mut self, path: &Path, major: u32, minor: u32) -> Result<()> {
        self.parent(path)?;
        self.entry(&merged(path), CHARACTER | 0o600, &[], (major, minor))
    }

    /// Adds everything below `source` at `path`.
    ///
    /// # Errors
    /// Something cannot be read, or the archive not written.
    pub fn tree(&mut self, path: &Path, source: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(source)
            .with_context(|| format!("cannot list {}", source.display()))?
            .collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (from, to) = (entry.path(), path.join(entry.file_name()));
            if !keep(&to) {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.folder(&to)?;
                self.tree(&to, &from, keep)?;
            } else if kind.is_symlink() {
                self.link(&to, &fs::read_link(&from)?)?;
            } else if kind.is_file() {
                self.file(&to, &from)?;
            }
        }
        Ok(())
    }

    /// Ends the archive and hands back what it was written to.
    ///
    /// # Errors
    /// The archive cannot be written.
    pub fn finish(mut self) -> Result<W> {
        self.number = 0;
        self.entry(Path::new("TRAILER!!!"), 0, &[], (0, 0))?;
        self.pad(512)?;
        Ok(self.out)
    }

    fn parent(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |parent| self.folder(parent))
    }

    fn entry(&mut self, path: &Path, mode: u32, data: &[u8], device: (u32, u32)) -> Result<()> {
        let name = path.as_os_str().as_encoded_bytes();
        self.number += 1;
        let size =
            u32::try_from(data.len()).with_context(|| format!("{} is too large for an archive", path.display()))?;
        let length = u32::try_from(name.len() + 1)?;
        // number, mode, owner, group, links, time, size, device of the file (2), device it is (2), length of the name, checksum
        let fields = [self.number, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, length, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.write(b"070701")?;
        self.write(header.as_bytes())?;
        self.write(name)?;
        self.write(&[0])?;
        self.pad(4)?;
        self.write(data)?;
        self.pad(4)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes).context("cannot write the archive")
    }

    fn pad(&mut self, to: usize) -> Result<()> {
        let missing = self.written.next_multiple_of(to) - self.written;
        self.write(&vec![0; missing])
    }
}

/// A path relative to the root, in the merged layout.
fn merged(path: &Path) -> PathBuf {
    let parts: Vec<&std::ffi::OsStr> = path
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let old = parts.first().is_some_and(|first| MERGED.iter().any(|name| first == name));
    let start = if old { Path::new("usr") } else { Path::new("") };
    parts.into_iter().fold(start.to_path_buf(), |path, part| path.join(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_header_a_name_and_padded_data() {
        let mut archive = Archive::new(Vec::new());
        archive.bytes(Path::new("/bin/a"), 0o755, b"hello").unwrap_or_default();
        let bytes = archive.finish().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("070701000000010000"));
        // `usr`, `usr/bin`, `usr/bin/a`, trailer
        assert_eq!(text.matches("070701").count(), 4);
        assert!(text.contains("usr/bin/a\0"));
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn top_level_folders_move_below_usr() {
        assert_eq!(merged(Path::new("/lib/x.so")), Path::new("usr/lib/x.so"));
        assert_eq!(merged(Path::new("usr/lib/x.so")), Path::new("usr/lib/x.so"));
        assert_eq!(merged(Path::new("/etc/passwd")), Path::new("etc/passwd"));
    }
}
