//! What can go wrong in a drill. In: the operating system's refusals; out: one sentence that names operation and object.
//!
//! Two variants are not failures of the drill: [`DrillError::Unavailable`] becomes a skipped drill with its reason, and
//! [`DrillError::Interrupted`] ends the whole run after everything was removed.

use std::io;

use super::NAMES;

/// Why a drill, the child agent or a helper process could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The command line named a drill that does not exist.
    #[error("there is no drill called `{name}`; choose from {}", NAMES.join(", "))]
    UnknownDrill {
        /// What was typed.
        name: String,
    },
    /// The hidden sub-command named a role that does not exist.
    #[error("there is no drill helper for the role `{role}`; the binary changed while the drill ran, run it again")]
    UnknownRole {
        /// What was asked for.
        role: String,
    },
    /// SIGINT or SIGTERM arrived.
    #[error("stopped by {signal}; what the drills had made is removed")]
    Interrupted {
        /// Name of the signal.
        signal: String,
    },
    /// This machine cannot hold the drill: the drill is skipped, not failed.
    #[error("{reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {operation} {object}: {source}")]
    System {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        object: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The packet dropper could not be loaded or attached.
    #[error("cannot {operation} the XDP program {}: {source}", super::net::DROP_PROGRAM)]
    Dropper {
        /// What was tried, as a verb.
        operation: &'static str,
        /// aya's answer, with the verifier's log where there is one.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object holds no packet dropper.
    #[error(
        "the eBPF object holds no XDP program called {}; build it again with `cargo xtask build-ebpf`",
        super::net::DROP_PROGRAM
    )]
    NoDropper,
    /// A process kept silent past its time.
    #[error("{who} did not {what} within {seconds} s")]
    Timeout {
        /// The silent process.
        who: &'static str,
        /// What it owed.
        what: &'static str,
        /// How long it was given.
        seconds: u64,
    },
    /// A helper process reported that it could not do its part.
    #[error("the `{role}` helper failed: {message}")]
    Helper {
        /// Which helper.
        role: &'static str,
        /// Its own words.
        message: String,
    },
    /// A helper said something else than was its turn.
    #[error("the `{role}` helper said `{said}` instead of `{wanted}`")]
    Protocol {
        /// Which helper.
        role: &'static str,
        /// What it said.
        said: String,
        /// What it owed.
        wanted: &'static str,
    },
    /// The child agent ended too early.
    #[error("the agent ended too early ({status}); it said: {words}")]
    AgentEnded {
        /// Exit status or signal.
        status: String,
        /// The end of its standard error.
        words: String,
    },
    /// The child agent wrote something that is not a line of its own format.
    #[error("the agent wrote a line that is not valid JSON with a `type`: {line}")]
    AgentLine {
        /// The line, cut to 200 characters.
        line: String,
    },
    /// The child agent stopped without its last line.
    #[error("the agent stopped without a `summary` line; it said: {words}")]
    NoSummary {
        /// The end of its standard error.
        words: String,
    },
    /// A fault was reported after the last drill was over.
    #[error("after the last drill the agent still reported an unexpected fault: {fault}")]
    LateFault {
        /// Kind, entity and id.
        fault: String,
    },
}

impl DrillError {
    /// Makes a [`DrillError::System`] out of the kernel's answer; for use in `map_err`.
    pub(super) fn system<E: Into<io::Error>>(
        operation: &'static str,
        object: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let object = object.into();
        move |source| Self::System { operation, object, source: source.into() }
    }

    /// Makes a [`DrillError::Unavailable`].
    pub(super) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into() }
    }

    /// True for errors after which no further drill can run.
    pub(super) fn ends_the_run(&self) -> bool {
        matches!(self, Self::Interrupted { .. } | Self::AgentEnded { .. } | Self::AgentLine { .. })
    }
}
