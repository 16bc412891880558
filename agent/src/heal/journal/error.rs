//! What can go wrong with a journal. Each message names the file, what failed and what to do.

use std::io;
use std::path::PathBuf;

use crate::model::action::Reason;

/// Why nothing can be written down, and therefore nothing be done.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file could not be made, opened or mapped.
    #[error("cannot {operation} the journal {}: {cause}; make its directory writable for the agent", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// The disk or a quota is full. What was there before is intact.
    #[error("no room for the journal {}: {cause}; free some space: until then nothing is acted on", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A record in the middle does not say what it said when written. The file stays as it is.
    #[error("the journal {} is damaged at record {record}, byte {offset}; read it with `faultline actions`, then move it away", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Number of the record (line or slot), from 0.
        record: u64,
        /// Where it starts, bytes.
        offset: u64,
    },
    /// Another version wrote it.
    #[error("the journal {} has version {found}, this faultline knows {}; use the faultline that wrote it, or move it away", path.display(), super::VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Another agent, a guardian or `faultline release` is writing to it.
    #[error("the journal {} is in use by another faultline; wait for it or stop it", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// An entry could not be put into JSON.
    #[error("cannot put an entry of the journal {} into JSON: {cause}; this is an error in faultline, please report it", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the serialiser said.
        cause: serde_json::Error,
    },
    /// /proc does not say who we are.
    #[error(
        "cannot read {file}, without which the journal cannot tell one life of the agent from another; mount /proc"
    )]
    Session {
        /// The file.
        file: &'static str,
    },
}

impl JournalError {
    /// For `map_err`: sorts a full disk out.
    pub(super) fn file(operation: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { path: path.to_owned(), cause }
            }
            _ => Self::File { operation, path: path.to_owned(), cause },
        }
    }

    /// The word the engine judges by.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Corrupt { .. } | Self::Version { .. } => Reason::JournalCorrupt,
            _ => Reason::NoJournal,
        }
    }
}
