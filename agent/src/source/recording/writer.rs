//! Writes a recording: records in, blocks out to any [`Write`].
//!
//! Records gather in a block of 64 KiB and leave it packed, in one `write_all`. Once both buffers have their size, nothing
//! is allocated here per record or per block; only a record larger than a block makes them grow, once.
//!
//! A failed write ends the recording, for good: what was refused meanwhile would otherwise be missing without a trace
//! from a file that claims a clean end. The agent goes on without it. The bytes up to the last whole block stay readable;
//! [`RecordingWriter::truncate_to_last_block`] takes away the half block behind them.
//!
//! Dropping a writer writes nothing: the block in hand is lost and the file has no end marker, which is the truth.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::block::{HEAD_LEN, Head, RECORD_OVERHEAD, TARGET_RAW, max_packed, put_varint};
use super::header::{self, Header, MAGIC};
use super::{Gap, MAX_BODY, RecordKind, RecordingError};

/// Writes one recording. See the module's documentation for what survives which failure.
pub struct RecordingWriter<W: Write> {
    sink: W,
    path: PathBuf,
    /// The records of the block in hand.
    raw: Vec<u8>,
    /// The head and the packed payload on their way out; always as long as the largest block so far may need.
    out: Vec<u8>,
    count: u32,
    first_seq: u64,
    last_seq: Option<u64>,
    /// The checksum that the next block names.
    chain: u32,
    /// The length of the file up to the end of the last whole block.
    committed: u64,
    ended: bool,
    /// lz4's hash table, kept so that a block costs no allocation.
    table: lz4_flex::block::CompressTable,
}

impl RecordingWriter<File> {
    /// Starts a recording at `path`, readable by its owner only: it holds command names and addresses.
    ///
    /// A file that is there is overwritten only if it is empty or a recording that nobody is writing.
    ///
    /// # Errors
    /// [`RecordingError::NotOurs`], [`RecordingError::Busy`] and [`RecordingError::NotAFile`] leave the file as it was;
    /// else the file cannot be created, or not take the header.
    pub fn create(path: impl AsRef<Path>, header: &Header) -> Result<Self, RecordingError> {
        let path = path.as_ref();
        let mut file = claim(path)?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .map_err(|cause| RecordingError::Create { path: path.to_owned(), cause })?;
        Self::start(file, path.to_owned(), header)
    }

    /// After a failed write: cuts off the part of a block that reached the file, so that the recording ends with a whole
    /// one. Without it a reader reports the same records and a torn tail that is longer.
    ///
    /// # Errors
    /// The file cannot be cut. It is still readable up to the same record.
    pub fn truncate_to_last_block(&mut self) -> Result<(), RecordingError> {
        self.sink.set_len(self.committed).map_err(|cause| self.write_error(cause))
    }

    /// Waits until what was flushed has reached the disk. May take seconds; never call it from the reactor.
    ///
    /// # Errors
    /// The disk did not take it.
    pub fn sync(&self) -> Result<(), RecordingError> {
        self.sink.sync_data().map_err(|cause| self.write_error(cause))
    }
}

impl<W: Write> RecordingWriter<W> {
    /// Starts a recording on `sink`.
    ///
    /// # Errors
    /// The header is too large, or `sink` does not take it.
    pub fn new(sink: W, header: &Header) -> Result<Self, RecordingError> {
        Self::start(sink, PathBuf::from("(stream)"), header)
    }

    fn start(sink: W, path: PathBuf, header: &Header) -> Result<Self, RecordingError> {
        let (bytes, chain) = header::encode(header, &path)?;
        let mut writer = Self {
            sink,
            path,
            raw: Vec::with_capacity(TARGET_RAW),
            out: vec![0; HEAD_LEN + max_packed(TARGET_RAW)],
            count: 0,
            first_seq: 0,
            last_seq: None,
            chain,
            committed: 0,
            ended: false,
            table: lz4_flex::block::CompressTable::small(),
        };
        writer.sink.write_all(&bytes).map_err(|cause| writer.write_error(cause))?;
        writer.committed = bytes.len() as u64;
        Ok(writer)
    }

    /// Adds a record. It reaches the sink with its block: when that is full, or by [`Self::flush_block`].
    ///
    /// # Errors
    /// [`RecordingError::RecordTooLarge`] and [`RecordingError::SeqFell`] refuse this record and leave all else as it was.
    /// [`RecordingError::Write`] ends the recording; each call after it returns [`RecordingError::Stopped`].
    pub fn append(&mut self, kind: RecordKind, seq: u64, body: &[u8]) -> Result<(), RecordingError> {
        self.check(seq, body.len())?;
        if self.count > 0 && self.raw.len() + RECORD_OVERHEAD + body.len() > TARGET_RAW {
            self.flush_block()?;
        }
        if self.count == 0 {
            self.first_seq = seq;
            self.last_seq = Some(seq);
        }
        let step = seq - self.last_seq.unwrap_or(seq);
        self.raw.push(kind.code());
        put_varint(&mut self.raw, step);
        put_varint(&mut self.raw, body.len() as u64);
        self.raw.extend_from_slice(body);
        self.count += 1;
        self.last_seq = Some(seq);
        Ok(())
    }

    /// Adds a record that says that `gap.count` records are missing here.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_gap(&mut self, seq: u64, gap: Gap) -> Result<(), RecordingError> {
        self.append(RecordKind::Gap, seq, &gap.encode())
    }

    /// Writes the block in hand, if it has a record. Call it by a timer, so that a crash costs little.
    ///
    /// # Errors
    /// [`RecordingError::Write`] ends the recording; [`RecordingError::Stopped`] after that.
    pub fn flush_block(&mut self) -> Result<(), RecordingError> {
        self.check_open()?;
        if self.count == 0 {
            return Ok(());
        }
        let need = HEAD_LEN + max_packed(self.raw.len());
        if self.out.len() < need {
            self.out.resize(need, 0);
        }
        let packed =
            match lz4_flex::block::compress_into_with_table(&self.raw, &mut self.out[HEAD_LEN..], &mut self.table) {
                Ok(packed) => packed,
                // Cannot happen: the buffer has the size that the same crate asks for.
                Err(cause) => return Err(self.fail(io::Error::other(cause))),
            };
        let end = HEAD_LEN + packed;
        // No length passes `max_packed(MAX_RAW)`, little more than a megabyte.
        let (head, crc) = Head {
            is_end: false,
            packed_len: packed as u32,
            raw_len: self.raw.len() as u32,
            count: self.count,
            first_seq: self.first_seq,
            payload_crc: crc32fast::hash(&self.out[HEAD_LEN..end]),
            chain: self.chain,
        }
        .encode();
        self.out[..HEAD_LEN].copy_from_slice(&head);
        self.commit(end, crc)?;
        self.raw.clear();
        self.count = 0;
        Ok(())
    }

    /// Writes the block in hand and the end marker, by which a reader knows that nothing is missing.
    ///
    /// # Errors
    /// As [`Self::flush_block`]; also [`RecordingError::Stopped`] when called again.
    pub fn finish(&mut self) -> Result<(), RecordingError> {
        self.flush_block()?;
        let (head, crc) = Head::end(self.last_seq.unwrap_or(0), self.chain).encode();
        self.out[..HEAD_LEN].copy_from_slice(&head);
        self.commit(HEAD_LEN, crc)?;
        self.ended = true;
        self.sink.flush().map_err(|cause| self.write_error(cause))
    }

    /// The file, or `(stream)`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes up to the end of the last whole block.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The sink; the block in hand is dropped.
    pub fn into_inner(self) -> W {
        self.sink
    }

    /// Writes the first `len` bytes of `out`.
    fn commit(&mut self, len: usize, crc: u32) -> Result<(), RecordingError> {
        if let Err(cause) = self.sink.write_all(&self.out[..len]) {
            return Err(self.fail(cause));
        }
        self.chain = crc;
        self.committed += len as u64;
        Ok(())
    }

    fn check(&self, seq: u64, size: usize) -> Result<(), RecordingError> {
        self.check_open()?;
        if size > MAX_BODY {
            return Err(RecordingError::RecordTooLarge { path: self.path.clone(), seq, size });
        }
        match self.last_seq {
            Some(last) if seq < last => Err(RecordingError::SeqFell { path: self.path.clone(), seq, last }),
            _ => Ok(()),
        }
    }

    fn check_open(&self) -> Result<(), RecordingError> {
        if self.ended {
            return Err(RecordingError::Stopped { path: self.path.clone(), offset: self.committed });
        }
        Ok(())
    }

    fn fail(&mut self, cause: io::Error) -> RecordingError {
        self.ended = true;
        self.write_error(cause)
    }

    fn write_error(&self, cause: io::Error) -> RecordingError {
        RecordingError::Write { path: self.path.clone(), offset: self.committed, cause }
    }
}

/// Opens `path` for writing without changing what is there, and makes sure that it may be overwritten. All questions are
/// put to the open file, so that nobody can exchange it between the answer and the first write.
fn claim(path: &Path) -> Result<File, RecordingError> {
    let owned = || path.to_owned();
    let create = |cause| RecordingError::Create { path: owned(), cause };
    // O_NONBLOCK: a pipe or a device at this path is refused below, not waited for.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(create)?;
    if !file.metadata().map_err(create)?.is_file() {
        return Err(RecordingError::NotAFile { path: owned() });
    }
    // A file system without locks (an error here) does not stop a recording.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Err(RecordingError::Busy { path: owned() });
    }
    let mut start = Vec::with_capacity(MAGIC.len());
    Read::by_ref(&mut file).take(MAGIC.len() as u64).read_to_end(&mut start).map_err(create)?;
    if !start.is_empty() && start != MAGIC {
        return Err(RecordingError::NotOurs { path: owned() });
    }
    Ok(file)
}
