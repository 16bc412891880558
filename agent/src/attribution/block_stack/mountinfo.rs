//! In: the text of `/proc/self/mountinfo`. Out: what is mounted from where, with escapes undone.
//!
//! Apart from `kernel::mounts`, which finds the kernel's own file systems: here the device and whether anything may
//! be written count. One odd line must not hide a disk, so lines are taken one by one and bad ones are skipped.

use crate::kernel::devices::kernel_dev;

/// A mount (proc(5), `fs/proc_namespace.c`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number of the super block, as in events; major 0 where no single block device stands behind it.
    pub dev: u32,
    /// Directory of the file system that is mounted here; `/` for all of it.
    pub root: String,
    /// Where, as this process sees it.
    pub point: String,
    /// File system type.
    pub fs_type: String,
    /// What was mounted, in the words of whoever did it. A device only where the file system makes it one.
    pub source: String,
    /// Whether this mount refuses writes.
    pub read_only: bool,
    /// Whether the file system does, as after an error with `errors=remount-ro`.
    pub fs_read_only: bool,
}

/// All mounts, in the kernel's order.
pub fn mounts(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Mount> {
    let mut fields = line.split(' ').skip(2);
    let dev = kernel_dev(fields.next()?)?;
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    // Any number of optional fields (`shared:7`), then a dash.
    fields.find(|field| *field == "-")?;
    let (fs_type, source, super_options) = (fields.next()?, fields.next()?, fields.next()?);
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    Some(Mount {
        dev,
        root: unescape(root),
        point: unescape(point),
        fs_type: unescape(fs_type),
        source: unescape(source),
        read_only: read_only(options),
        fs_read_only: read_only(super_options),
    })
}

/// Undoes `\ooo`, which the kernel writes for space, tab, newline, backslash and number sign (`mangle`, `seq_path`).
fn unescape(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut plain = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        let code = octal(rest);
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { rest.get(4..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// The byte that a text begins with in escaped form.
fn octal(text: &[u8]) -> Option<u8> {
    let [b'\\', high @ b'0'..=b'3', middle @ b'0'..=b'7', low @ b'0'..=b'7', ..] = text else { return None };
    Some((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'))
}
