//! In: the first bytes of a BTF file. Out: where its sections lie, or why it is not BTF.
//!
//! Offsets in the header count from its own end, and it has grown once (24 to 32 bytes in 7.1), so that `hdr_len`
//! decides and not the size of a struct here.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::record::{u16_at, u32_at};

const MAGIC: u16 = 0xeb9f;
/// The header up to and including `str_len`; older fields never move.
const MIN_HEADER: u32 = 24;

/// Why BTF cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The file could not be read; absent means a kernel without `CONFIG_DEBUG_INFO_BTF`.
    #[error("cannot read BTF from {}: {source} (the kernel needs CONFIG_DEBUG_INFO_BTF=y and a mounted sysfs)", path.display())]
    Read {
        /// File that was tried.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The first two bytes are not those of BTF in this machine's byte order.
    #[error("not BTF of this byte order: magic {found:#06x}, expected {MAGIC:#06x}")]
    Magic {
        /// First two bytes.
        found: u16,
    },
    /// A version of the format that this code does not know.
    #[error("BTF version {0} is unknown (known: 1)")]
    Version(u8),
    /// The header is shorter than any that was ever written, or longer than the file.
    #[error("BTF header of {hdr_len} bytes does not fit ({MIN_HEADER} to {file_len} bytes expected)")]
    Header {
        /// Length that the header states for itself.
        hdr_len: u32,
        /// Bytes there are.
        file_len: usize,
    },
    /// A section lies outside the file.
    #[error("BTF section {name} at {offset}+{len} lies outside the file of {file_len} bytes")]
    Section {
        /// `types`, `strings` or `layout`.
        name: &'static str,
        /// Offset from the end of the header.
        offset: u32,
        /// Length in bytes.
        len: u32,
        /// Bytes there are.
        file_len: usize,
    },
    /// The type section ends inside a type.
    #[error("BTF ends inside type {id} (byte {at})")]
    Truncated {
        /// Id of the type that is cut.
        id: u32,
        /// Where it starts in the file.
        at: usize,
    },
    /// A kind newer than this code, and the file has no layout section that would give its length.
    #[error("BTF type {id} is of unknown kind {kind}, and the file does not state its length")]
    UnknownKind {
        /// Id of the type.
        id: u32,
        /// Its kind number.
        kind: u32,
    },
}
/// Absolute byte ranges of the sections.
pub(super) struct Header {
    pub(super) types: Range<usize>,
    pub(super) strings: Range<usize>,
    /// Lengths of kinds, one entry each, since 7.1; empty before.
    pub(super) layout: Range<usize>,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BtfError> {
        let file_len = bytes.len();
        let found = u16_at(bytes, 0).unwrap_or(0);
        if found != MAGIC {
            return Err(BtfError::Magic { found });
        }
        match bytes.get(2) {
            Some(1) => {}
            other => return Err(BtfError::Version(other.copied().unwrap_or(0))),
        }
        let hdr_len = u32_at(bytes, 4).unwrap_or(0);
        if hdr_len < MIN_HEADER || hdr_len as usize > file_len {
            return Err(BtfError::Header { hdr_len, file_len });
        }
        let section = |name, field: usize| {
            let offset = u32_at(bytes, field).unwrap_or(0);
            let len = u32_at(bytes, field + 4).unwrap_or(0);
            let start = (hdr_len as usize).checked_add(offset as usize);
            let range = start.and_then(|start| Some(start..start.checked_add(len as usize)?));
            range.filter(|range| range.end <= file_len).ok_or(BtfError::Section { name, offset, len, file_len })
        };
        let layout = if hdr_len >= 32 { section("layout", 24)? } else { 0..0 };
        Ok(Self { types: section("types", 8)?, strings: section("strings", 16)?, layout })
    }
}
