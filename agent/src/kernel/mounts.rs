//! In: `/proc/self/mountinfo`. Out: the mounts this process sees, with escapes undone.
//!
//! `procfs` parses a line but keeps `\040` for a space and gives up on the whole file at the first odd line; one
//! strange mount must not hide the cgroup tree, so lines are parsed one by one and bad ones are skipped.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use procfs::process::MountInfo;

use super::{FactError, Root};

/// The mount table of this process.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One mount, cut down to what the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Directory of the file system that is mounted here; `/` for all of it, `/..` parts for a cgroup tree that
    /// starts above this process's cgroup namespace.
    pub source_root: PathBuf,
    /// Where it is mounted, as this process sees it (not yet resolved through a [`Root`]).
    pub point: PathBuf,
    /// File system type.
    pub fs_type: String,
    /// Options of the super block, `key` or `key=value`.
    pub options: Vec<String>,
}

/// All mounts, in the kernel's order.
///
/// # Errors
/// When the table cannot be read (no `/proc`).
pub fn list(root: &Root) -> Result<Vec<Mount>, FactError> {
    let table = root.read(MOUNTINFO)?;
    Ok(String::from_utf8_lossy(&table).lines().filter_map(parse_line).collect())
}

fn parse_line(line: &str) -> Option<Mount> {
    let info = MountInfo::from_line(line).ok()?;
    let options = info.super_options.into_iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={value}"),
        None => key,
    });
    Some(Mount {
        source_root: unescape(Path::new(&info.root)),
        point: unescape(&info.mount_point),
        fs_type: info.fs_type,
        options: options.collect(),
    })
}

/// Undoes `\ooo`, which the kernel writes for space, tab, newline and backslash (`fs/proc_namespace.c`, `mangle`).
fn unescape(path: &Path) -> PathBuf {
    let mut rest = path.as_os_str().as_bytes();
    let mut plain = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_with_optional_fields_and_escapes() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 shared:7 - cgroup cgroup rw,cpu,name=a";
        let mount = parse_line(line).expect("valid line");
        assert_eq!(mount.point, Path::new(r"/mnt 2\x"));
        assert_eq!(mount.source_root, Path::new("/mnt1"));
        assert_eq!(mount.fs_type, "cgroup");
        let mut options = mount.options;
        options.sort();
        assert_eq!(options, ["cpu", "name=a", "rw"]);
    }

    #[test]
    fn odd_lines_are_none() {
        for line in ["", "x", "36 35 98:0 / /a rw", r"1 2 0:1 / /a rw - tmpfs"] {
            assert_eq!(parse_line(line), None, "{line:?}");
        }
        assert_eq!(unescape(Path::new(r"/a\04")), Path::new(r"/a\04"));
        assert_eq!(unescape(Path::new(r"/a\999")), Path::new(r"/a\999"));
    }
}
