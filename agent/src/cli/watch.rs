//! Who watches the guardian. In: the guardian, and the word that it is dismissed. Out: whether anything may be frozen or
//! limited, and at the orderly end whether everything was taken back.
//!
//! A guardian that dies (by the OOM killer, by a mistaken hand) is replaced, at growing intervals where it dies again and
//! again. Between two guardians nothing is frozen or limited; what is held meanwhile is the next one's.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    clock::monotonic_ns,
    heal::{Protection, guardian::Guardian, journal::Paths},
    source::queue::Doorbell,
};

/// Before the next guardian is started: half of the first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// One that lived this long was no failed start, ns.
const SETTLED_NS: u64 = 60_000_000_000;

/// What the watch needs.
#[derive(Debug)]
pub(super) struct Watch {
    /// What the guardian is told to look after.
    pub paths: Paths,
    /// Whether a guardian watches.
    pub guarded: Arc<AtomicBool>,
    /// Learns who it is.
    pub protection: Protection,
    /// Rung at the orderly end.
    pub dismissed: Arc<Doorbell>,
}

impl Watch {
    /// Watches `first`, or starts one where there is none, until the end; then whether a guardian has taken everything back.
    /// Blocking.
    pub(super) fn over(&self, first: Option<Guardian>) -> bool {
        let mut guardian = first;
        let mut pause = PAUSE;
        loop {
            let begun_ns = monotonic_ns();
            if let Some(guardian) = guardian.take() {
                if !self.outlived(&guardian) {
                    return stopped(guardian);
                }
                self.guarded.store(false, Ordering::Release);
                tracing::error!(
                    "the guardian is gone ({}): nothing is frozen or limited until the next one watches",
                    guardian.epitaph()
                );
            }
            pause = if monotonic_ns() - begun_ns > SETTLED_NS { PAUSE } else { (2 * pause).min(LONGEST) };
            if self.is_dismissed_within(pause) {
                return false;
            }
            guardian = self.start();
        }
    }

    fn start(&self) -> Option<Guardian> {
        let guardian = Guardian::start(&self.paths).inspect_err(|error| tracing::error!(%error, "no guardian")).ok()?;
        self.protection.guardian_is(guardian.pid());
        self.guarded.store(true, Ordering::Release);
        tracing::warn!(pid = guardian.pid(), "another guardian watches");
        Some(guardian)
    }

    /// Waits; true when the guardian is gone, false when it is dismissed.
    fn outlived(&self, guardian: &Guardian) -> bool {
        let mut fds =
            [PollFd::new(guardian.as_fd(), PollFlags::POLLIN), PollFd::new(self.dismissed.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE) == Err(Errno::EINTR) {}
        fds[1].revents().is_none_or(|events| events.is_empty())
    }

    fn is_dismissed_within(&self, pause: Duration) -> bool {
        let timeout = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(self.dismissed.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
    }
}

fn stopped(guardian: Guardian) -> bool {
    guardian.stop().inspect_err(|error| tracing::warn!(%error, "the agent takes back what it held by itself")).is_ok()
}
