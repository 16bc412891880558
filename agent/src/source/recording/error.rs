//! What can go wrong with a recording. Each message names the file, what failed and what to do.

use std::io;
use std::path::PathBuf;

use super::FORMAT;

/// Why a recording could not be written or read.
///
/// The operating system's words are part of the message (the field is `cause`, not `source`), so that it is whole when
/// printed alone and not said twice when printed with its chain.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file could not be created or opened for writing.
    #[error("cannot create the recording {}: {cause}; {}", path.display(), advice(cause))]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The path is a pipe, a device or a socket.
    #[error("will not record to {}: it is not a regular file; choose another path", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file exists, has content and does not start like a recording.
    #[error("will not overwrite {}: it holds something other than a recording; choose another path or move it away", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the lock on the file.
    #[error("will not overwrite {}: another process is recording to it; choose another path or stop that one", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A write failed. What lies before `offset` is a valid recording; the writer takes nothing more.
    #[error("cannot write to the recording {} at byte {offset}: {cause}; it ends there; {}", path.display(), advice(cause))]
    Write {
        /// The file.
        path: PathBuf,
        /// The end of the last whole block, in bytes.
        offset: u64,
        /// What the system said.
        cause: io::Error,
    },
    /// Something was to be written after the end marker or after a write that had failed.
    #[error("the recording {} has ended already, at byte {offset}; start another one", path.display())]
    Stopped {
        /// The file.
        path: PathBuf,
        /// The end of the last whole block, in bytes.
        offset: u64,
    },
    /// A body is larger than [`super::MAX_BODY`]. Nothing was written; the writer goes on.
    #[error("record {seq} of {size} bytes does not fit into the recording {} (at most {} bytes); split it", path.display(), super::MAX_BODY)]
    RecordTooLarge {
        /// The file.
        path: PathBuf,
        /// The record's sequence number.
        seq: u64,
        /// Its size in bytes.
        size: usize,
    },
    /// A sequence number below the one before. Nothing was written; the writer goes on.
    #[error("record {seq} cannot follow record {last} in the recording {}: sequence numbers never fall", path.display())]
    SeqFell {
        /// The file.
        path: PathBuf,
        /// The refused number.
        seq: u64,
        /// The number before it.
        last: u64,
    },
    /// The header or the engine snapshot in it is larger than a reader would accept.
    #[error("the header of the recording {} has {size} bytes, more than {max}; record with a smaller engine snapshot", path.display())]
    HeaderTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The header could not be put into JSON.
    #[error("cannot put the header of the recording {} into JSON: {cause}; this is an error in faultline, please report it", path.display())]
    HeaderEncode {
        /// The file.
        path: PathBuf,
        /// What the serialiser said.
        cause: serde_json::Error,
    },
    /// The file could not be opened for reading.
    #[error("cannot open the recording {}: {cause}; {}", path.display(), advice(cause))]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Reading failed (the medium, not the format).
    #[error("cannot read the recording {} at byte {offset}: {cause}; {}", path.display(), advice(cause))]
    Read {
        /// The file.
        path: PathBuf,
        /// How many bytes had been read.
        offset: u64,
        /// What the system said.
        cause: io::Error,
    },
    /// The file has no byte.
    #[error("{} is empty, not a recording; make one with `faultline record --out FILE`", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file starts like something else.
    #[error("{} is not a recording (it starts with {}); give a file made by `faultline record --out FILE`", path.display(), start.escape_ascii())]
    NotARecording {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// A later version wrote the file.
    #[error("the recording {} has format {found}, this faultline reads up to {FORMAT}; use the faultline that wrote it, or a newer one", path.display())]
    FutureFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u32,
    },
    /// The file ends within its header: it holds no record.
    #[error("the recording {} ends within its header, at byte {offset}: nothing can be read from it; record again", path.display())]
    HeaderTorn {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        offset: u64,
    },
    /// The header does not say what it said when written. Without it, no record can be understood.
    #[error("the header of the recording {} is damaged ({detail}): nothing can be read from it; take another copy or record again", path.display())]
    HeaderDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

impl RecordingError {
    /// Whether the disk or a quota is full, the one failure that an operator can lift without touching the agent.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Create { cause, .. } | Self::Write { cause, .. } => is_full(cause),
            _ => false,
        }
    }
}

fn is_full(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn advice(cause: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match cause.kind() {
        _ if is_full(cause) => "free space or record to another file system",
        Kind::NotFound | Kind::NotADirectory => "check the path and that its folder exists",
        Kind::IsADirectory => "it is a folder: name a file in it",
        Kind::PermissionDenied => "use a path that this user may use, or another user",
        Kind::ReadOnlyFilesystem => "the file system is read-only: choose another path",
        Kind::FileTooLarge => "raise the limit on file sizes (ulimit -f) or record for a shorter time",
        _ => "look for the device in the kernel log and try another path",
    }
}
