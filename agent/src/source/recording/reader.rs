//! Reads a recording: bytes of a file that may be torn, damaged or hostile in, the intact prefix of its records out.
//!
//! Damage behind the header is no error: [`RecordingReader::next`] ends there, and [`RecordingReader::end`] says how and
//! where. A record is handed out only from a block whose checksums, length and place in the file are right. Memory is
//! bounded by the limits of the format, whatever the lengths in the file claim.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::block::{HEAD_LEN, Head, get_varint};
use super::header::{self, Header};
use super::{RecordKind, RecordingError};

/// One record, borrowed from the reader's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// Its number; never below that of the record before.
    pub seq: u64,
    /// Its bytes, as appended.
    pub body: &'a [u8],
}

/// How a recording ended. `after_seq` is the number of the last good record, `None` if there was none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the end marker: every record that was appended was read.
    Clean,
    /// Without it: the writer was stopped, or the tail never reached the disk. (Also as long as the end was not reached.)
    Torn {
        /// The last good record.
        after_seq: Option<u64>,
        /// What is missing.
        detail: String,
    },
    /// In bytes that no writer wrote at this place.
    Damaged {
        /// The last good record.
        after_seq: Option<u64>,
        /// Where the first bad block starts, in bytes.
        offset: u64,
        /// What is wrong with it.
        detail: String,
    },
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, after_seq, detail) = match self {
            Self::Clean => return f.write_str("complete"),
            Self::Torn { after_seq, detail } => ("torn", after_seq, detail),
            Self::Damaged { after_seq, detail, .. } => ("damaged", after_seq, detail),
        };
        match after_seq {
            Some(seq) => write!(f, "{state} after record {seq}: {detail}"),
            None => write!(f, "{state} before the first record: {detail}"),
        }
    }
}

/// Why no further block can be read.
enum Stop {
    Clean,
    Torn(String),
    Damaged(String),
}

/// Reads one recording from its start.
#[derive(Debug)]
pub struct RecordingReader<R: Read> {
    source: R,
    path: PathBuf,
    header: Header,
    /// What the next block must name.
    chain: u32,
    packed: Vec<u8>,
    /// The records of this block are `raw[at..raw_len]`; the buffer may be longer.
    raw: Vec<u8>,
    raw_len: usize,
    at: usize,
    /// How many records this block must still have.
    left: u32,
    /// The number of the record before, or of the block's first one.
    base_seq: u64,
    last_seq: Option<u64>,
    /// Where this block starts, and how far the source was read.
    block_offset: u64,
    offset: u64,
    end: Option<End>,
}

impl RecordingReader<File> {
    /// Opens the recording at `path` and reads its header.
    ///
    /// # Errors
    /// The file cannot be read, is no recording, is of a later format, or its header is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RecordingError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|cause| RecordingError::Open { path: path.to_owned(), cause })?;
        Self::start(file, path.to_owned())
    }
}

impl<R: Read> RecordingReader<R> {
    /// Reads a header from `source`, which the reader then owns. Reads are few and large: no `BufReader` is needed.
    ///
    /// # Errors
    /// As [`RecordingReader::open`].
    pub fn new(source: R) -> Result<Self, RecordingError> {
        Self::start(source, PathBuf::from("(stream)"))
    }

    fn start(mut source: R, path: PathBuf) -> Result<Self, RecordingError> {
        let decoded = header::decode(&mut source, &path)?;
        Ok(Self {
            source,
            path,
            header: decoded.header,
            chain: decoded.chain,
            packed: Vec::new(),
            raw: Vec::new(),
            raw_len: 0,
            at: 0,
            left: 0,
            base_seq: 0,
            last_seq: None,
            block_offset: decoded.len,
            offset: decoded.len,
            end: None,
        })
    }

    /// Under what conditions the recording was made.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file, or `(stream)`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next record, or `None` at the end of the intact part; then ask [`Self::end`].
    ///
    /// # Errors
    /// Only [`RecordingError::Read`]: the medium failed. Damage is not an error, it is an [`End`].
    #[expect(clippy::should_implement_trait, reason = "it lends from the reader, which Iterator cannot express")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, RecordingError> {
        if self.end.is_some() {
            return Ok(None);
        }
        if self.at == self.raw_len
            && self.left == 0
            && let Some(stop) = self.load_block()?
        {
            self.stop(stop);
            return Ok(None);
        }
        let Some((kind, seq, len)) = self.parse_record() else {
            self.stop(Stop::Damaged("its checksum is right, but its records do not fill it exactly".into()));
            return Ok(None);
        };
        let start = self.at;
        self.at += len;
        self.left -= 1;
        self.base_seq = seq;
        self.last_seq = Some(seq);
        Ok(Some(Record { kind, seq, body: &self.raw[start..start + len] }))
    }

    /// How the recording ended. Until [`Self::next`] has returned `None` it counts as torn after the last record read.
    pub fn end(&self) -> End {
        self.end
            .clone()
            .unwrap_or_else(|| End::Torn { after_seq: self.last_seq, detail: "it was not read to its end".into() })
    }

    /// Moves `at` over a record's prefix. Returns its kind, number and length; `None` where the block is inconsistent.
    fn parse_record(&mut self) -> Option<(RecordKind, u64, usize)> {
        let rest = &self.raw[self.at..self.raw_len];
        let (&code, rest) = rest.split_first()?;
        let (step, step_len) = get_varint(rest)?;
        let rest = &rest[step_len..];
        let (len, len_len) = get_varint(rest)?;
        let left = rest.len() - len_len;
        let len = usize::try_from(len).ok().filter(|&len| len <= left)?;
        // The count must run out with the bytes, not before and not after.
        if (self.left == 1) != (len == left) || self.left == 0 {
            return None;
        }
        let seq = self.base_seq.checked_add(step)?;
        self.at += 1 + step_len + len_len;
        Some((RecordKind::from_code(code), seq, len))
    }

    /// Reads, checks and unpacks the next block; says why when there is none.
    fn load_block(&mut self) -> Result<Option<Stop>, RecordingError> {
        self.block_offset = self.offset;
        let (head, crc) = match self.read_head()? {
            Ok(head) => head,
            Err(stop) => return Ok(Some(stop)),
        };
        if head.chain != self.chain {
            return Ok(Some(Stop::Damaged(
                "it does not follow the block before: moved, repeated, or one is missing".into(),
            )));
        }
        if self.last_seq.is_some_and(|last| head.first_seq < last) {
            return Ok(Some(Stop::Damaged("its first record's number is below the last one's".into())));
        }
        self.chain = crc;
        if head.is_end {
            return self.read_nothing_more().map(Some);
        }
        let stop = self.read_payload(&head)?;
        if stop.is_none() {
            self.raw_len = head.raw_len as usize;
            self.at = 0;
            self.left = head.count;
            self.base_seq = head.first_seq;
        }
        Ok(stop)
    }

    fn read_head(&mut self) -> Result<Result<(Head, u32), Stop>, RecordingError> {
        let mut bytes = [0; HEAD_LEN];
        let got = self.fill(&mut bytes)?;
        if got == 0 {
            return Ok(Err(Stop::Torn("it has no end marker".into())));
        }
        if got < HEAD_LEN {
            return Ok(Err(Stop::Torn(format!("{got} of the {HEAD_LEN} bytes of a block head are there"))));
        }
        match Head::decode(&bytes) {
            Ok(head) => Ok(Ok(head)),
            Err(_) if bytes == [0; HEAD_LEN] && self.rest_is_zero()? => {
                Ok(Err(Stop::Torn("only zeros follow: the tail never reached the disk".into())))
            }
            Err(detail) => Ok(Err(Stop::Damaged(detail.into()))),
        }
    }

    fn read_payload(&mut self, head: &Head) -> Result<Option<Stop>, RecordingError> {
        let (packed_len, raw_len) = (head.packed_len as usize, head.raw_len as usize);
        let mut packed = std::mem::take(&mut self.packed);
        packed.resize(packed_len, 0);
        let got = self.fill(&mut packed);
        self.packed = packed;
        let got = got?;
        if got < packed_len {
            return Ok(Some(Stop::Torn(format!("{got} of the {packed_len} bytes of a block are there"))));
        }
        if crc32fast::hash(&self.packed) != head.payload_crc {
            return Ok(Some(Stop::Damaged("the checksum of the block is wrong".into())));
        }
        if self.raw.len() < raw_len {
            self.raw.resize(raw_len, 0);
        }
        Ok(match lz4_flex::block::decompress_into(&self.packed, &mut self.raw[..raw_len]) {
            Ok(len) if len == raw_len => None,
            Ok(len) => Some(Stop::Damaged(format!("the block has {len} bytes instead of {raw_len}"))),
            Err(cause) => Some(Stop::Damaged(format!("the block cannot be unpacked: {cause}"))),
        })
    }

    fn read_nothing_more(&mut self) -> Result<Stop, RecordingError> {
        let end = self.offset;
        if self.fill(&mut [0])? == 0 {
            return Ok(Stop::Clean);
        }
        self.block_offset = end;
        Ok(Stop::Damaged("there are bytes behind the end marker".into()))
    }

    /// Whether nothing but zeros follows, as after a power failure that came between a file's length and its data.
    fn rest_is_zero(&mut self) -> Result<bool, RecordingError> {
        let mut chunk = [0; 4096];
        loop {
            match self.fill(&mut chunk)? {
                0 => return Ok(true),
                got if chunk[..got].iter().any(|&byte| byte != 0) => return Ok(false),
                _ => {}
            }
        }
    }

    /// Fills `into`; fewer bytes than asked for mean the end of the source.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, RecordingError> {
        let mut got = 0;
        while got < into.len() {
            match self.source.read(&mut into[got..]) {
                Ok(0) => break,
                Ok(more) => {
                    got += more;
                    self.offset += more as u64;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => {
                    return Err(RecordingError::Read { path: self.path.clone(), offset: self.offset, cause });
                }
            }
        }
        Ok(got)
    }

    fn stop(&mut self, stop: Stop) {
        let after_seq = self.last_seq;
        self.end = Some(match stop {
            Stop::Clean => End::Clean,
            Stop::Torn(detail) => End::Torn { after_seq, detail },
            Stop::Damaged(detail) => End::Damaged { after_seq, offset: self.block_offset, detail },
        });
    }
}
