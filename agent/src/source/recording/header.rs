//! The header of a recording: what a later build must know to read the records. [`Header`] in, bytes out, and back.
//!
//! It is JSON, so that `head -c 2000 FILE` tells a person what he has, and so that later versions can add keys: unknown
//! ones are ignored. The engine snapshot is binary and follows it, packed with lz4, in a section of its own.
//!
//! A later format may change everything except the prelude's 32 bytes, its magic, version and checksum: by these
//! an old build tells "too new for me" from "damaged".

use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::block::{get32, max_packed, put32};
use super::{FORMAT, RecordingError};

/// The first bytes of every recording. A byte that is not ASCII and a line end of both kinds: what passes through a
/// text-mode copy no longer matches.
pub(super) const MAGIC: [u8; 8] = *b"\x8fFLREC\r\n";

/// Neither the JSON nor the snapshot may pass this, packed or not.
pub(super) const MAX_SECTION: usize = 16 << 20;

const PRELUDE_LEN: usize = 32;

/// Under what conditions a recording was made.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Header {
    /// The version of the file layout, [`FORMAT`].
    pub format: u32,
    /// The version of the agent that wrote it.
    pub faultline_version: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `/proc/sys/kernel/random/boot_id`: CLOCK_MONOTONIC of two recordings compares only where this is the same.
    pub boot_id: String,
    /// How many CPUs the kernel could ever bring up.
    pub possible_cpus: u32,
    /// Bytes per page.
    pub page_size: u32,
    /// What turns monotonic time into the time of day.
    pub anchor: ClockAnchor,
    /// `observe` or `act`.
    pub mode: String,
    /// The configuration in effect, as TOML.
    pub config_toml: String,
    /// The sensors and the layout of their records.
    pub sensors: Vec<SensorTable>,
    /// The engine's state before the first record, opaque here. Stored behind the JSON, not in it.
    #[serde(skip)]
    pub snapshot: Vec<u8>,
}

/// One instant on both clocks.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockAnchor {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub monotonic_ns: u64,
    /// CLOCK_REALTIME, nanoseconds since 1970.
    pub realtime_ns: u64,
}

/// One sensor as it was when recorded.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SensorTable {
    /// The sensor's one word.
    pub name: String,
    /// The number in its frames.
    pub id: u16,
    /// Bytes of its payload.
    pub size: u32,
    /// The hook in use, if any.
    pub hook: Option<String>,
    /// Its health in words.
    pub health: String,
    /// The fields that the kernel did not have.
    pub missing: Vec<String>,
    /// Where each field of the payload lies, so that later builds decode by name.
    pub fields: Vec<FieldSpec>,
}

/// One field of a sensor's payload.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FieldSpec {
    /// Its name.
    pub name: String,
    /// Bytes from the start of the payload.
    pub offset: u32,
    /// Its length in bytes.
    pub size: u32,
}

/// Only what decides whether the rest can be understood.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// The bytes of `header` and the checksum that the first block names as its `chain`.
///
/// # Errors
/// The JSON or the snapshot is larger than a reader accepts.
pub(super) fn encode(header: &Header, path: &Path) -> Result<(Vec<u8>, u32), RecordingError> {
    let json =
        serde_json::to_vec(header).map_err(|cause| RecordingError::HeaderEncode { path: path.to_owned(), cause })?;
    let size = json.len().max(header.snapshot.len());
    if size > MAX_SECTION {
        return Err(RecordingError::HeaderTooLarge { path: path.to_owned(), size, max: MAX_SECTION });
    }
    let packed = lz4_flex::block::compress(&header.snapshot);
    let mut out = vec![0; PRELUDE_LEN];
    out.extend_from_slice(&json);
    out.extend_from_slice(&packed);
    let body_crc = crc32fast::hash(&out[PRELUDE_LEN..]);
    out[..8].copy_from_slice(&MAGIC);
    // The lengths fit: each is at most `max_packed(MAX_SECTION)`.
    let fields = [FORMAT, json.len() as u32, packed.len() as u32, header.snapshot.len() as u32, body_crc];
    for (nth, field) in fields.into_iter().enumerate() {
        put32(&mut out, 8 + 4 * nth, field);
    }
    let crc = crc32fast::hash(&out[..28]);
    put32(&mut out, 28, crc);
    Ok((out, crc))
}

/// A header that was read.
pub(super) struct Decoded {
    pub(super) header: Header,
    /// What the first block must name as its `chain`.
    pub(super) chain: u32,
    /// The length of the header in the file.
    pub(super) len: u64,
}

/// Reads the header from the start of a recording.
///
/// # Errors
/// All that can be wrong with a header; see [`RecordingError`].
pub(super) fn decode(from: &mut impl Read, path: &Path) -> Result<Decoded, RecordingError> {
    let prelude = Prelude::read(from, path)?;
    let (json_len, packed_len) = (prelude.json_len as usize, prelude.packed_len as usize);
    let body = read_up_to(from, json_len + packed_len, path, PRELUDE_LEN as u64)?;
    let len = (PRELUDE_LEN + body.len()) as u64;
    if body.len() < json_len + packed_len {
        return Err(RecordingError::HeaderTorn { path: path.to_owned(), offset: len });
    }
    let damaged = |detail: String| RecordingError::HeaderDamaged { path: path.to_owned(), detail };
    if crc32fast::hash(&body) != prelude.body_crc {
        return Err(damaged("the checksum of its content is wrong".into()));
    }
    let (json, packed) = body.split_at(json_len);
    let mut header = parse(json, path)?;
    header.snapshot = unpack(packed, prelude.raw_len as usize).map_err(damaged)?;
    Ok(Decoded { header, chain: prelude.crc, len })
}

/// The lengths and checksums before the JSON.
struct Prelude {
    json_len: u32,
    packed_len: u32,
    raw_len: u32,
    body_crc: u32,
    crc: u32,
}

impl Prelude {
    fn read(from: &mut impl Read, path: &Path) -> Result<Self, RecordingError> {
        let owned = || path.to_owned();
        let bytes = read_up_to(from, PRELUDE_LEN, path, 0)?;
        if bytes.is_empty() {
            return Err(RecordingError::Empty { path: owned() });
        }
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(start) {
            return Err(RecordingError::NotARecording { path: owned(), start: start.to_vec() });
        }
        if bytes.len() < PRELUDE_LEN {
            return Err(RecordingError::HeaderTorn { path: owned(), offset: bytes.len() as u64 });
        }
        let crc = get32(&bytes, 28);
        let damaged = |detail: &str| RecordingError::HeaderDamaged { path: owned(), detail: detail.into() };
        if crc32fast::hash(&bytes[..28]) != crc {
            return Err(damaged("the checksum of its first 32 bytes is wrong"));
        }
        match get32(&bytes, 8) {
            FORMAT => Ok(()),
            0 => Err(damaged("there is no format 0")),
            found => Err(RecordingError::FutureFormat { path: owned(), found }),
        }?;
        let prelude = Self {
            json_len: get32(&bytes, 12),
            packed_len: get32(&bytes, 16),
            raw_len: get32(&bytes, 20),
            body_crc: get32(&bytes, 24),
            crc,
        };
        if prelude.fits() { Ok(prelude) } else { Err(damaged("it claims more than 16 MiB")) }
    }

    fn fits(&self) -> bool {
        self.json_len as usize <= MAX_SECTION
            && self.raw_len as usize <= MAX_SECTION
            && self.packed_len as usize <= max_packed(self.raw_len as usize)
    }
}

/// Parses the JSON; the format first, because a later one may have changed the rest.
fn parse(json: &[u8], path: &Path) -> Result<Header, RecordingError> {
    let damaged = |cause: serde_json::Error| RecordingError::HeaderDamaged {
        path: path.to_owned(),
        detail: format!("its JSON is not that of a recording: {cause}"),
    };
    let FormatOnly { format } = serde_json::from_slice(json).map_err(damaged)?;
    if format > FORMAT {
        return Err(RecordingError::FutureFormat { path: path.to_owned(), found: format });
    }
    serde_json::from_slice(json).map_err(damaged)
}

fn unpack(packed: &[u8], raw_len: usize) -> Result<Vec<u8>, String> {
    let mut raw = vec![0; raw_len];
    match lz4_flex::block::decompress_into(packed, &mut raw) {
        Ok(len) if len == raw_len => Ok(raw),
        Ok(len) => Err(format!("the engine snapshot has {len} bytes instead of {raw_len}")),
        Err(cause) => Err(format!("the engine snapshot cannot be unpacked: {cause}")),
    }
}

/// Reads `len` bytes, fewer at the end of the file. Memory grows with what is there, not with what a length claims.
fn read_up_to(from: &mut impl Read, len: usize, path: &Path, offset: u64) -> Result<Vec<u8>, RecordingError> {
    let mut bytes = Vec::new();
    let read: io::Result<usize> = from.take(len as u64).read_to_end(&mut bytes);
    match read {
        Ok(_) => Ok(bytes),
        Err(cause) => Err(RecordingError::Read { path: path.to_owned(), offset, cause }),
    }
}
