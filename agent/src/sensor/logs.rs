//! The programs' own log records in (aya-log's ring), tracing records out, by way of the `log` crate. Only at
//! debug level; a blocking task that sleeps in poll(2) until there are records or it is dropped.

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::source::queue::Doorbell;

/// Ends the bridge when dropped.
#[derive(Debug)]
pub struct LogBridge {
    stop: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
}

impl LogBridge {
    /// Starts the bridge inside a tokio runtime; without it, the programs' records are not read, which is said.
    pub fn start(ebpf: &mut Ebpf) -> Option<Self> {
        let logger = EbpfLogger::init(ebpf).map_err(|error| tracing::warn!(%error, "no program logs")).ok()?;
        let bell = Doorbell::new().map_err(|error| tracing::warn!(%error, "no program logs")).ok()?;
        let bridge = Self { stop: Arc::new(AtomicBool::new(false)), bell };
        let (stop, bell) = (bridge.stop.clone(), bridge.bell.clone());
        tokio::task::spawn_blocking(move || follow(logger, &stop, &bell));
        Some(bridge)
    }
}

impl Drop for LogBridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring_always();
    }
}

fn follow(mut logger: EbpfLogger<&'static dyn log::Log>, stop: &AtomicBool, bell: &Doorbell) {
    while !stop.load(Ordering::Acquire) {
        let mut fds = [PollFd::new(logger.as_fd(), PollFlags::POLLIN), PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        logger.flush();
    }
}
