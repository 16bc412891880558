//! The stage on which every drill plays. In: the agent's lines, the helpers' words, Ctrl-C; out: whichever the drill waits for.
//!
//! There is one place where a drill waits: a `poll` over the stop signals, the agent's output and the helper in question. So
//! a fault is read while the injection still runs, and Ctrl-C is obeyed at every moment.

use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::DrillError;
use super::helper::{Helper, Word, parse};
use super::janitor::Janitor;
use super::observer::Observer;
use super::verdict::Expected;
use crate::clock::monotonic_ns;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// How long an agent may take from the harm to the fault. It is only ever used up by a drill that fails.
pub const DETECT_WITHIN_S: u64 = 30;

/// How long a helper may take for one step, kernels in an emulator included.
pub const STEP_WITHIN_S: u64 = 30;

/// SIGINT and SIGTERM as a descriptor, for as long as this lives.
pub struct StopSignals {
    signals: SignalFd,
    before: SigSet,
}

impl StopSignals {
    /// Blocks both signals on the calling thread and opens the descriptor.
    pub fn take() -> Result<Self, DrillError> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        let wrong = |errno: Errno| DrillError::system("take over", "SIGINT and SIGTERM")(errno);
        let before = mask.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).map_err(wrong)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(wrong)?;
        Ok(Self { signals, before })
    }

    /// The error that ends the run, when a signal came.
    fn check(&self) -> Result<(), DrillError> {
        match self.signals.read_signal() {
            Ok(Some(info)) => {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                let signal = Signal::try_from(number).map_or_else(|_| number.to_string(), |name| name.to_string());
                Err(DrillError::Interrupted { signal })
            }
            Ok(None) => Ok(()),
            Err(errno) => Err(DrillError::system("read", "the signal descriptor")(errno)),
        }
    }
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// What all drills of one run share. Fields drop in this order: first the agent, then the janitor, then the signals.
pub struct Stage {
    /// The child agent.
    pub observer: Observer,
    /// The process that cleans up should this one be killed.
    pub janitor: Janitor,
    /// Ctrl-C.
    pub stop: StopSignals,
    /// Whether the agent has a policy that heals what can be healed.
    pub heals: bool,
}

impl Stage {
    /// Waits until an action has recovered the expected fault; `None` when the time was over.
    pub fn wait_for_recovery(&mut self, expected: &Expected) -> Result<Option<u64>, DrillError> {
        let deadline = monotonic_ns() + DETECT_WITHIN_S * SECOND;
        loop {
            if let Some(at_ns) = self.observer.recovered_ns(expected) {
                return Ok(Some(at_ns));
            }
            if !self.wait(&[], deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits until the agent said how each sensor does.
    pub fn wait_for_agent(&mut self, within_s: u64) -> Result<(), DrillError> {
        let deadline = monotonic_ns() + within_s * SECOND;
        while !self.observer.ready() {
            if !self.wait(&[], deadline)? {
                return Err(DrillError::Timeout { who: "the agent", what: "report its sensors", seconds: within_s });
            }
        }
        Ok(())
    }

    /// Waits for the expected fault; false when the time was over. Meanwhile `helper`'s words stay in its pipe.
    pub fn wait_for_fault(&mut self, expected: &Expected) -> Result<bool, DrillError> {
        let deadline = monotonic_ns() + DETECT_WITHIN_S * SECOND;
        while !self.observer.has_new(expected) {
            if !self.wait(&[], deadline)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps reading the agent for `duration_ns`, so that a second or a wrong fault can still show up.
    pub fn watch(&mut self, duration_ns: u64) -> Result<(), DrillError> {
        let deadline = monotonic_ns() + duration_ns;
        while self.wait(&[], deadline)? {}
        Ok(())
    }

    /// The next word of a helper.
    pub fn word(&mut self, helper: &mut Helper) -> Result<Word, DrillError> {
        let deadline = monotonic_ns() + STEP_WITHIN_S * SECOND;
        let role = helper.role;
        loop {
            let line = helper.lines().next().map_err(DrillError::system("read from the helper", role))?;
            if let Some(line) = line {
                return parse(role, &line);
            }
            if helper.lines().ended() {
                return Err(DrillError::Helper { role, message: "it ended without a word".into() });
            }
            if !self.wait(&[helper.lines().as_fd()], deadline)? {
                return Err(DrillError::Timeout { who: role, what: "answer", seconds: STEP_WITHIN_S });
            }
        }
    }

    /// A helper's word that must be `ready`; returns what it made.
    pub fn ready(&mut self, helper: &mut Helper) -> Result<String, DrillError> {
        match self.word(helper)? {
            Word::Ready(what) => Ok(what),
            other => Err(wrong_turn(helper.role, &other, "ready")),
        }
    }

    /// A helper's word that must be `injected`; returns the CLOCK_MONOTONIC nanosecond of the first harm.
    pub fn injected(&mut self, helper: &mut Helper) -> Result<u64, DrillError> {
        match self.word(helper)? {
            Word::Injected(ns) => Ok(ns),
            other => Err(wrong_turn(helper.role, &other, "injected")),
        }
    }

    /// Tells a helper to end and waits until it has.
    pub fn dismiss(&mut self, helper: &mut Helper) -> Result<ExitStatus, DrillError> {
        helper.dismiss();
        self.ended(helper)
    }

    /// Waits until a helper has ended.
    pub fn ended(&mut self, helper: &mut Helper) -> Result<ExitStatus, DrillError> {
        let deadline = monotonic_ns() + STEP_WITHIN_S * SECOND;
        while !is_readable(helper.pidfd().as_fd())? {
            if !self.wait(&[helper.pidfd().as_fd()], deadline)? {
                return Err(DrillError::Timeout { who: helper.role, what: "end", seconds: STEP_WITHIN_S });
            }
        }
        helper.reap()
    }

    /// Waits until one of the descriptors, the agent or a signal has something; false once the deadline has passed.
    fn wait(&mut self, others: &[BorrowedFd<'_>], deadline_ns: u64) -> Result<bool, DrillError> {
        let now = monotonic_ns();
        if now >= deadline_ns {
            return Ok(false);
        }
        let mut fds = vec![self.stop.signals.as_fd(), self.observer.as_fd()];
        fds.extend_from_slice(others);
        let any = poll_readable(&fds, deadline_ns - now)?;
        self.stop.check()?;
        self.observer.read()?;
        Ok(any)
    }
}

fn wrong_turn(role: &'static str, said: &Word, wanted: &'static str) -> DrillError {
    DrillError::Protocol { role, said: format!("{said:?}"), wanted }
}

/// True when the descriptor is readable right now.
pub fn is_readable(fd: BorrowedFd<'_>) -> Result<bool, DrillError> {
    poll_readable(&[fd], 0)
}

/// Waits at most `timeout_ns` until one of the descriptors is readable (or has hung up).
pub fn poll_readable(fds: &[BorrowedFd<'_>], timeout_ns: u64) -> Result<bool, DrillError> {
    let mut set: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let millis = i32::try_from(timeout_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut set, timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(DrillError::system("poll", "the drill's descriptors")(errno)),
    }
}
