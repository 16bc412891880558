//! What can go wrong between us and the service manager. In: D-Bus errors and job results. Out: one message per
//! failure, and the [`Reason`] that an action line prints.

use std::time::Duration;

use thiserror::Error;
use zbus::{DBusError, fdo};

use crate::model::action::Reason;

/// Names of systemd's own D-Bus errors (src/libsystemd/sd-bus/bus-common-errors.h), below [`PREFIX`].
const PREFIX: &str = "org.freedesktop.systemd1.";

/// A failed call, job or connection.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// Nobody answers there.
    #[error("no service manager at {bus}: {why}; is systemd running, and may this process reach its bus?")]
    NoManager {
        /// The address.
        bus: String,
        /// As the connection said it.
        why: String,
    },
    /// The connection broke while an answer was awaited: whether the call was carried out is not known.
    #[error(
        "the connection to the service manager at {bus} was lost during {call} of {unit}; look at `systemctl status {unit}`"
    )]
    Lost {
        /// The address.
        bus: String,
        /// The D-Bus method.
        call: &'static str,
        /// The unit.
        unit: String,
    },
    /// systemd has no such unit.
    #[error("systemd has no unit {unit}: {why}")]
    UnitUnknown {
        /// The name.
        unit: String,
        /// As systemd said it.
        why: String,
    },
    /// systemd knows it and will not: masked, `RefuseManualStart=`, or no right to ask.
    #[error("systemd refuses {call} of {unit}: {why}")]
    NotPermitted {
        /// The D-Bus method.
        call: &'static str,
        /// The unit.
        unit: String,
        /// As systemd said it.
        why: String,
    },
    /// The time was up before the job was over. The job goes on: systemd ends it by the unit's own `Timeout*Sec=`.
    #[error("{call} of {unit} was not over after {} ms; systemd goes on with it, see `systemctl list-jobs`", after.as_millis())]
    TimedOut {
        /// The D-Bus method.
        call: &'static str,
        /// The unit.
        unit: String,
        /// How long was waited.
        after: Duration,
    },
    /// The job ended, but not as `done`.
    #[error("the job for {call} of {unit} ended as `{result}`; see `journalctl --unit {unit}`")]
    Job {
        /// The D-Bus method.
        call: &'static str,
        /// The unit.
        unit: String,
        /// `failed`, `timeout`, `canceled`, `dependency`, `skipped`, ... of org.freedesktop.systemd1(5).
        result: String,
    },
    /// A refusal that has no word of its own.
    #[error("{call} of {unit} failed: {name}: {why}")]
    Call {
        /// The D-Bus method.
        call: &'static str,
        /// The unit.
        unit: String,
        /// Name of the D-Bus error.
        name: String,
        /// As systemd said it.
        why: String,
    },
}

impl SystemdError {
    /// The word that an action line prints.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoManager { .. } | Self::Lost { .. } => Reason::NoServiceManager,
            Self::UnitUnknown { .. } => Reason::UnitUnknown,
            Self::NotPermitted { .. } => Reason::NotPermitted,
            Self::TimedOut { .. } => Reason::TimedOut,
            Self::Job { .. } => Reason::JobFailed,
            Self::Call { .. } => Reason::SystemError,
        }
    }

    /// Whether the manager may have begun: only then is a failure one of the action rather than a refusal.
    pub fn touched(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::TimedOut { .. } | Self::Job { .. })
    }

    /// Sorts what a call came back with.
    pub(super) fn of_call(bus: &str, call: &'static str, unit: &str, error: &zbus::Error) -> Self {
        let (bus, unit) = (bus.to_owned(), unit.to_owned());
        if is_broken(error) {
            return Self::Lost { bus, call, unit };
        }
        let (name, why) = words(error);
        match name.strip_prefix(PREFIX).or_else(|| name.strip_prefix("org.freedesktop.DBus.Error.")) {
            Some("ServiceUnknown" | "NameHasNoOwner" | "NoServer") => Self::NoManager { bus, why },
            // A name that cannot be a unit's is an invalid argument.
            Some("NoSuchUnit" | "LoadFailed" | "InvalidArgs") => Self::UnitUnknown { unit, why },
            Some(
                "UnitMasked" | "OnlyByDependency" | "AccessDenied" | "AuthFailed" | "InteractiveAuthorizationRequired",
            ) => Self::NotPermitted { call, unit, why },
            _ => Self::Call { call, unit, name, why },
        }
    }
}

/// Whether it was the connection that failed, and not the call.
pub(super) fn is_broken(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) | zbus::Error::Connection(..) => true,
        zbus::Error::FDO(error) => {
            matches!(**error, fdo::Error::Disconnected(_) | fdo::Error::IOError(_) | fdo::Error::NoReply(_))
        }
        _ => false,
    }
}

/// Name and text of a D-Bus error.
pub(super) fn words(error: &zbus::Error) -> (String, String) {
    match error {
        zbus::Error::MethodError(name, why, _) => (name.to_string(), why.clone().unwrap_or_default()),
        zbus::Error::FDO(error) => (error.name().to_string(), error.description().unwrap_or_default().to_owned()),
        other => ("protocol".to_owned(), other.to_string()),
    }
}
