//! In: the mount table and `events/CATEGORY/NAME/format`. Out: where tracefs is, and where the fields of a tracepoint
//! lie.
//!
//! Layouts of tracepoints move between kernels and inside a stable series (`mark_victim` grew from one field to nine
//! in 5.10), so the file of the running kernel is the only source. What it does not state is absent.

use std::io;
use std::path::{Path, PathBuf};

use super::{Root, mounts};

#[cfg(test)]
#[path = "tracefs_tests.rs"]
mod tests;

/// Mount points in order of preference; the second appears by itself when its parent debugfs is entered.
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Why a tracepoint's layout is not known.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No tracefs is mounted.
    #[error(
        "tracefs is not mounted (looked in the mount table, /sys/kernel/tracing and /sys/kernel/debug/tracing): mount -t tracefs nodev /sys/kernel/tracing"
    )]
    NotMounted,
    /// Mounting it failed.
    #[error("cannot mount tracefs on {}: {source} (needs CAP_SYS_ADMIN and a kernel with CONFIG_TRACING)", path.display())]
    Mount {
        /// Mount point.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// This kernel has no such tracepoint, or its module is not loaded.
    #[error("this kernel has no tracepoint {category}:{name} (no {})", path.display())]
    NoSuchEvent {
        /// Subsystem.
        category: String,
        /// Event.
        name: String,
        /// File that is absent.
        path: PathBuf,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {}: {source} (tracefs is mode 0700: needs root or CAP_DAC_READ_SEARCH)", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The text is not a tracepoint format.
    #[error(
        "tracepoint format line not understood: {line:?} (expected `field:TYPE NAME; offset:N; size:N; signed:N;`)"
    )]
    Format {
        /// The line, or an empty string if the file has no field at all.
        line: String,
    },
}

/// Where a field lies in a tracepoint record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceField {
    /// Bytes from the start of the record (the common header included).
    pub offset: u32,
    /// Bytes it takes; 4 for `__data_loc`.
    pub size: u32,
    /// Whether it holds (length << 16 | offset) of data at the record's end and not the data.
    pub is_data_loc: bool,
    /// Whether it is a signed number.
    pub signed: bool,
}

/// Layout of one tracepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFormat {
    fields: Vec<(String, TraceField)>,
}

impl TraceFormat {
    /// Reads the layout of `category:name` from a mounted tracefs.
    ///
    /// # Errors
    /// [`TraceError::NoSuchEvent`] when the kernel lacks it, `Read` when it may not be read, `Format` when it is odd.
    pub fn load(tracefs: &Path, category: &str, name: &str) -> Result<Self, TraceError> {
        let path = tracefs.join("events").join(category).join(name).join("format");
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                Err(TraceError::NoSuchEvent { category: category.to_owned(), name: name.to_owned(), path })
            }
            Err(source) => Err(TraceError::Read { path, source }),
        }
    }

    /// Reads the text of a `format` file.
    ///
    /// # Errors
    /// [`TraceError::Format`] naming the line; a text without any field is an error too.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        let mut fields = Vec::new();
        for line in text.lines().map(str::trim) {
            let Some(declaration) = line.strip_prefix("field:") else { continue };
            let field = parse_field(declaration).ok_or_else(|| TraceError::Format { line: line.to_owned() })?;
            // `__rel_loc` counts from the field itself. Nothing the agent reads uses it: absent, not wrongly placed.
            if !declaration.starts_with("__rel_loc ") {
                fields.push(field);
            }
        }
        if fields.is_empty() { Err(TraceError::Format { line: String::new() }) } else { Ok(Self { fields }) }
    }

    /// The field of this name; `None` if this kernel's tracepoint lacks it.
    pub fn field(&self, name: &str) -> Option<TraceField> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, field)| *field)
    }
}

/// `__data_loc char[] comm; offset:12; size:4; signed:0;` to a name and its place.
fn parse_field(text: &str) -> Option<(String, TraceField)> {
    let mut parts = text.split(';').map(str::trim);
    let declaration = parts.next()?;
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.strip_prefix(':')?.parse::<i64>().ok();
    let offset = u32::try_from(number("offset")?).ok()?;
    let size = u32::try_from(number("size")?).ok()?;
    let signed = number("signed")? != 0;
    let is_data_loc = declaration.starts_with("__data_loc ");
    Some((declared_name(declaration)?.to_owned(), TraceField { offset, size, is_data_loc, signed }))
}

/// The declared name. Bounds go first, since they may hold spaces (`__u8 saddr[sizeof(struct sockaddr_in6)]`); the
/// ones of `__data_loc char[] comm` stand in the type and stay.
fn declared_name(declaration: &str) -> Option<&str> {
    let mut rest = declaration;
    while rest.ends_with(']') {
        rest = rest[..rest.rfind('[')?].trim_end();
    }
    let name = rest.rsplit([' ', '\t', '*']).next()?;
    (!name.is_empty() && name != rest).then_some(name)
}

/// The tracefs mount, ready for `std::fs`; `None` when there is none.
pub fn find(root: &Root) -> Option<PathBuf> {
    let mounted: Vec<PathBuf> = mounts::list(root)
        .unwrap_or_default()
        .into_iter()
        .filter(|mount| mount.fs_type == "tracefs" && mount.source_root == Path::new("/"))
        .map(|mount| mount.point)
        .collect();
    let known = PLACES.iter().map(PathBuf::from).find(|place| mounted.contains(place));
    // Entering debugfs/tracing makes the kernel mount it, so that the table may not show it yet.
    let found = known.or_else(|| mounted.into_iter().next());
    found
        .map(|point| root.path(point))
        .or_else(|| PLACES.iter().map(|place| root.path(place)).find(|place| place.join("events").is_dir()))
}

/// The tracefs mount; mounts it at `/sys/kernel/tracing` when there is none and `root` is the live one. A mount made
/// here stays, as it would from an init script: other tools share it, and taking it away could pull it from under them.
///
/// # Errors
/// [`TraceError::Mount`] with what the kernel said, [`TraceError::NotMounted`] for a fixture.
pub fn mount_if_missing(root: &Root) -> Result<PathBuf, TraceError> {
    use nix::mount::{MsFlags, mount};
    if let Some(found) = find(root) {
        return Ok(found);
    }
    if !root.is_live() {
        return Err(TraceError::NotMounted);
    }
    let path = PathBuf::from(PLACES[0]);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("nodev"), &path, Some("tracefs"), flags, None::<&str>) {
        Ok(()) => Ok(path),
        // EBUSY: somebody else mounted it between the look and the call.
        Err(errno) => find(root).ok_or(TraceError::Mount { path, source: errno.into() }),
    }
}
