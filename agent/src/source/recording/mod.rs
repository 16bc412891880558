//! The recording file: numbered, opaque records in; the same records, or their intact prefix, out.
//!
//! This is pure byte level. It knows nothing of the engine, of frames or of sensors; it promises only that what
//! [`RecordingReader`] hands out is what [`RecordingWriter`] was given, in that order, from the first record on.
//!
//! ```text
//! file    = prelude header_json header_snapshot block* [end]
//! prelude = magic[8] version:u32 json_len:u32 packed_len:u32 raw_len:u32 body_crc:u32 prelude_crc:u32
//! block   = "FLBK" packed_len:u32 raw_len:u32 count:u32 first_seq:u64 payload_crc:u32 chain:u32 head_crc:u32 payload
//! end     = "FLEN", the other fields zero but for first_seq (the last one written), chain and head_crc
//! payload = lz4 block of: (kind:u8 seq_step:varint len:varint body[len]) * count
//! ```
//!
//! All numbers are little endian. `head_crc` covers the head, hence `payload_crc`, hence the payload; `chain` is the
//! `head_crc` of the block before (of the first block: the prelude's). So a block that was moved, repeated, dropped from the
//! middle or taken from another recording does not fit, even where its sequence numbers would.
//!
//! The sequence number of a record never falls. It may repeat: an annotation carries the number of the input it belongs to.
//!
//! Rejected: a length and a checksum per record without blocks (lz4 finds nothing to share in 60 bytes, and the file
//! becomes three times as long); an index at the end (useless in the one case that matters, a torn file);
//! searching for the next good block behind damage (replay promises identity only up to the first hole).
//! Look at an index again when somebody seeks in recordings of many gigabytes.

mod block;
mod error;
pub mod header;
pub mod reader;
#[cfg(test)]
pub(super) mod tests;
pub mod writer;

pub use error::RecordingError;
pub use header::{ClockAnchor, FieldSpec, Header, SensorTable};
pub use reader::{End, Record, RecordingReader};
pub use writer::RecordingWriter;

/// The version of the file layout that this build writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// The most bytes that one record's body may have.
pub const MAX_BODY: usize = block::MAX_RAW - block::RECORD_OVERHEAD;

/// What a record is. Later versions add kinds; a reader skips those it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// The bytes of one ring record as the kernel wrote them.
    Frame,
    /// Any other input of the engine, serialised by the caller.
    Input,
    /// A measured value that the engine never reads.
    Annotation,
    /// Records that the recorder could not keep, see [`Gap`].
    Gap,
    /// The engine's state at this point. Only the flight recorder has these; in a file the first one is in the header.
    Snapshot,
    /// Names that were told before the recording began, serialised as an input that the engine never gets.
    Names,
    /// A kind of a later version, by its code.
    Unknown(u8),
}

impl RecordKind {
    /// The code in the file.
    pub const fn code(self) -> u8 {
        match self {
            Self::Frame => 1,
            Self::Input => 2,
            Self::Annotation => 3,
            Self::Gap => 4,
            Self::Snapshot => 5,
            Self::Names => 6,
            Self::Unknown(code) => code,
        }
    }

    /// The kind of a code; total, because the set of kinds is open.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Frame,
            2 => Self::Input,
            3 => Self::Annotation,
            4 => Self::Gap,
            5 => Self::Snapshot,
            6 => Self::Names,
            other => Self::Unknown(other),
        }
    }
}

/// The body of a [`RecordKind::Gap`]: so many records are missing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many records were lost.
    pub count: u64,
    /// When the loss began, CLOCK_MONOTONIC nanoseconds.
    pub from_ns: u64,
    /// When it ended, CLOCK_MONOTONIC nanoseconds.
    pub to_ns: u64,
}

impl Gap {
    /// The length of an encoded gap in bytes.
    pub const LEN: usize = 24;

    /// The bytes of this gap.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        for (to, word) in out.chunks_exact_mut(8).zip([self.count, self.from_ns, self.to_ns]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// The gap in `body`, or `None` when that is too short. Bytes behind it are left to later versions.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut words = body.chunks_exact(8).map(block::word64);
        Some(Self { count: words.next()?, from_ns: words.next()?, to_ns: words.next()? })
    }
}
