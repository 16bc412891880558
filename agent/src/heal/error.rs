//! Why a hand refused or failed. In: what the kernel said; out: an error that names operation and object, and the
//! [`Reason`] under which the engine hears of it.

use std::io;

use crate::model::action::Reason;

/// Why nothing was done, or why what was done failed.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// The cgroup or process is not there (any more).
    #[error("{what} is gone; nothing was done to it")]
    Gone {
        /// The object.
        what: String,
    },
    /// Another cgroup has the name by now.
    #[error("{what} was made again: cgroup id {found}, expected {wanted}; nothing was done to it")]
    Recreated {
        /// The path.
        what: String,
        /// The id that was meant.
        wanted: u64,
        /// The id that is there.
        found: u64,
    },
    /// Another process has the pid by now.
    #[error("pid {pid} is another process now: it {difference}; nothing was done to it")]
    Recycled {
        /// The number.
        pid: u32,
        /// In what it is not the one that was meant.
        difference: String,
    },
    /// A guard of the hands themselves.
    #[error("will not touch {what}: {why}")]
    Protected {
        /// The object.
        what: String,
        /// Who is in it.
        why: String,
    },
    /// This kernel, or this cgroup's place in it, does not offer the operation.
    #[error("cannot {operation} {what}: {why}")]
    Unsupported {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        what: String,
        /// What is missing.
        why: String,
    },
    /// It was begun and did not end in time.
    #[error("{operation} {what}: not over in time, {left}")]
    TimedOut {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        what: String,
        /// What is still to do.
        left: String,
    },
    /// A system call failed.
    #[error("cannot {operation} {what}: {cause}")]
    System {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        what: String,
        /// What the kernel said.
        cause: io::Error,
    },
}

impl HandError {
    /// For `map_err`: a failed system call, with the two answers that mean "it is gone" taken out.
    pub(super) fn of(operation: &'static str, what: impl ToString) -> impl FnOnce(io::Error) -> Self {
        move |cause| match cause.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH) => Self::Gone { what: what.to_string() },
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                Self::Unsupported { operation, what: what.to_string(), why: cause.to_string() }
            }
            _ => Self::System { operation, what: what.to_string(), cause },
        }
    }

    /// The word the engine judges by.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Gone { .. } => Reason::TargetGone,
            Self::Recreated { .. } => Reason::CgroupRecreated,
            Self::Recycled { .. } => Reason::PidRecycled,
            Self::Protected { .. } => Reason::Protected,
            Self::Unsupported { .. } => Reason::NotSupported,
            Self::TimedOut { .. } => Reason::TimedOut,
            Self::System { cause, .. } => reason_of(cause),
        }
    }
}

/// The word for an errno that none of the other variants stands for.
pub(super) fn reason_of(cause: &io::Error) -> Reason {
    match cause.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::EROFS) => Reason::NotPermitted,
        Some(libc::ENODEV) => Reason::CgroupRecreated,
        Some(libc::ENOENT | libc::ESRCH) => Reason::TargetGone,
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Reason::NotSupported,
        _ => Reason::SystemError,
    }
}
