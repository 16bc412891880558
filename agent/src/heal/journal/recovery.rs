//! The recovery journal: an append-only file of checked lines. In: records, each on the disk before the call returns; out: all
//! records so far, a torn tail cut off, damage in the middle reported and never touched.
//!
//! Whoever writes holds the file's lock (flock): the agent for its life, else the guardian or `release`. That one lock is
//! what keeps two of them from taking the same thing back twice.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};

use super::line::{self, Record};
use super::{JournalError, Session};
use crate::heal::cgroup::Undo;
use crate::model::action::{Done, Outcome, Request};

/// Room that is allocated beyond an intent, so that its end finds some on a disk that fills up meanwhile, bytes.
const SPARE: usize = 8192;

/// What a file was found to hold.
#[derive(Debug, Default)]
pub struct Scan {
    /// The whole records, in order; with damage, those before it and those after it.
    pub records: Vec<Record>,
    /// Bytes of an unfinished record at the end.
    pub torn: u64,
    /// The first damaged record, if any.
    pub corrupt: Option<JournalError>,
    /// End of the last whole record, bytes.
    end: u64,
}

/// The writer.
#[derive(Debug)]
pub struct RecoveryJournal {
    path: PathBuf,
    file: Flock<File>,
    /// End of the last whole record, bytes.
    end: u64,
}

impl RecoveryJournal {
    /// Opens or makes the file, takes its lock, reads what it holds and cuts a torn tail off.
    ///
    /// # Errors
    /// [`JournalError::Busy`] while somebody else has it, [`JournalError::Corrupt`], [`JournalError::Version`],
    /// [`JournalError::File`].
    pub fn open(path: &Path) -> Result<(Self, Scan), JournalError> {
        let file = open(path)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => JournalError::Busy { path: path.to_owned() },
            errno => JournalError::file("lock", path)(errno.into()),
        })?;
        let mut scan = scan(path, &file)?;
        if let Some(corrupt) = scan.corrupt.take() {
            return Err(corrupt);
        }
        let mut journal = Self { path: path.to_owned(), file, end: scan.end };
        journal.cut()?;
        Ok((journal, scan))
    }

    /// Its length, bytes.
    #[expect(clippy::len_without_is_empty, reason = "a size on the disk, not a collection")]
    pub fn len(&self) -> u64 {
        self.end
    }

    /// Begins the records of an agent.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::File`].
    pub fn begin(&mut self, session: &Session) -> Result<(), JournalError> {
        self.append(&Record::Session { version: super::VERSION, session: session.clone() })
    }

    /// Before an action. It is on the disk when this returns; if it is not, nothing may be done.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::File`]; the file then ends with the record before.
    pub fn intend(&mut self, at_ns: u64, request: &Request, name: &str, undo: &Undo) -> Result<(), JournalError> {
        self.append(&Record::Intended { at_ns, request: *request, name: name.to_owned(), undo: undo.clone() })
    }

    /// After it.
    ///
    /// # Errors
    /// As [`Self::intend`]; the action then stays half-done in the journal and is looked at when the session is settled.
    pub fn done(&mut self, done: &Done) -> Result<(), JournalError> {
        self.append(&Record::Done { done: *done })
    }

    /// After its verification.
    ///
    /// # Errors
    /// As [`Self::done`].
    pub fn outcome(&mut self, id: u64, outcome: Outcome, at_ns: u64) -> Result<(), JournalError> {
        self.append(&Record::Outcome { id, outcome, at_ns })
    }

    /// Any record.
    ///
    /// # Errors
    /// As [`Self::intend`].
    pub fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let line = self.encode(record)?;
        self.put(&line, matches!(record, Record::Intended { .. }))
    }

    /// Many records, synced once; all of them or none.
    ///
    /// # Errors
    /// As [`Self::intend`].
    pub fn append_all(&mut self, records: impl Iterator<Item = Record>) -> Result<(), JournalError> {
        let lines = records.map(|record| self.encode(&record)).collect::<Result<String, _>>()?;
        if lines.is_empty() { Ok(()) } else { self.put(&lines, false) }
    }

    fn encode(&self, record: &Record) -> Result<String, JournalError> {
        line::encode(record).map_err(|cause| JournalError::Encode { path: self.path.clone(), cause })
    }

    fn put(&mut self, lines: &str, spare: bool) -> Result<(), JournalError> {
        match self.write(lines.as_bytes(), spare) {
            Ok(()) => {
                self.end += lines.len() as u64;
                Ok(())
            }
            Err(cause) => {
                // What failed is the news; that the cut failed, too, shows at the next opening as a torn tail.
                let _ = self.cut();
                Err(JournalError::file("write", &self.path)(cause))
            }
        }
    }

    fn write(&mut self, line: &[u8], spare: bool) -> io::Result<()> {
        if spare {
            reserve(&self.file, self.end, line.len() + SPARE)?;
        }
        self.file.write_all(line)?;
        self.file.sync_data()
    }

    /// Cuts everything off behind the last whole record and goes there.
    fn cut(&mut self) -> Result<(), JournalError> {
        let at_end = self.file.set_len(self.end).and_then(|()| self.file.seek(SeekFrom::Start(self.end)));
        at_end.map(drop).map_err(JournalError::file("truncate", &self.path))
    }

    /// Reads a file that somebody else may be writing to. No file is no records.
    ///
    /// # Errors
    /// [`JournalError::File`], [`JournalError::Version`]. Damage is in [`Scan::corrupt`].
    pub fn scan(path: &Path) -> Result<Scan, JournalError> {
        match File::open(path) {
            Ok(file) => scan(path, &file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Scan::default()),
            Err(error) => Err(JournalError::file("open", path)(error)),
        }
    }
}

fn open(path: &Path) -> Result<File, JournalError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(JournalError::file("make the directory of", path))?;
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    file.map_err(JournalError::file("open", path))
}

/// Allocates without changing the length. A file system that cannot is written to all the same.
fn reserve(file: &File, at: u64, bytes: usize) -> io::Result<()> {
    let (at, bytes) = (libc::off_t::try_from(at), libc::off_t::try_from(bytes));
    let (Ok(at), Ok(bytes)) = (at, bytes) else { return Err(io::ErrorKind::FileTooLarge.into()) };
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, at, bytes) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn scan(path: &Path, mut file: &File) -> Result<Scan, JournalError> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(JournalError::file("read", path))?;
    let mut scan = Scan::default();
    let mut rest = bytes.as_slice();
    for number in 0.. {
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else { break };
        let offset = (bytes.len() - rest.len()) as u64;
        match line::decode(&rest[..length]) {
            Some(Record::Session { version, .. }) if version != super::VERSION => {
                return Err(JournalError::Version { path: path.to_owned(), found: version });
            }
            Some(record) => scan.records.push(record),
            // Blocks that a power cut left unwritten read as zeros; nothing follows them.
            None if rest.iter().all(|byte| *byte == 0) => break,
            None => {
                let corrupt = JournalError::Corrupt { path: path.to_owned(), record: number, offset };
                scan.corrupt.get_or_insert(corrupt);
            }
        }
        rest = &rest[length + 1..];
    }
    scan.torn = rest.len() as u64;
    scan.end = (bytes.len() - rest.len()) as u64;
    Ok(scan)
}
