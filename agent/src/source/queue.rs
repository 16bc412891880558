//! Bounded queues between the reactor and the tasks that may block. In: items from one thread. Out: the same
//! items on another. The reactor's side never waits, never allocates and never takes a lock; a full queue
//! is told to the caller, who counts it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use crate::model::input::Fact;

/// Wakes a sleeping consumer; costs one load while it is awake.
#[derive(Debug)]
pub struct Doorbell {
    fd: EventFd,
    asleep: AtomicBool,
}

impl Doorbell {
    /// A new doorbell.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> nix::Result<Arc<Self>> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Arc::new(Self { fd, asleep: AtomicBool::new(false) }))
    }

    /// Called by the producer after a push.
    pub fn ring(&self) {
        // Orders the push before the look at the flag; the consumer does the reverse in `wait`.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::SeqCst) {
            self.ring_always();
        }
    }

    /// Wakes without looking whether anybody sleeps.
    pub fn ring_always(&self) {
        let _ = self.fd.write(1);
    }

    /// Called by the consumer: sleeps until rung, unless `is_empty` turns false meanwhile.
    pub fn wait(&self, timeout_ms: u16, is_empty: impl Fn() -> bool) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if is_empty() {
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(timeout_ms));
        }
        self.asleep.store(false, Ordering::SeqCst);
        self.clear();
    }

    /// Forgets earlier rings.
    pub fn clear(&self) {
        let _ = self.fd.read();
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How many facts may wait for the reactor.
const FACTS: usize = 1024;

/// The way of facts into the reactor; shared by the tasks that make them.
#[derive(Clone, Debug)]
pub struct FactSender {
    queue: Arc<Mutex<rtrb::Producer<Fact>>>,
    bell: Arc<Doorbell>,
}

impl FactSender {
    /// The two ends. The reactor's end sleeps in epoll on the doorbell.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> nix::Result<(Self, rtrb::Consumer<Fact>, Arc<Doorbell>)> {
        let (producer, consumer) = rtrb::RingBuffer::new(FACTS);
        let bell = Doorbell::new()?;
        Ok((Self { queue: Arc::new(Mutex::new(producer)), bell: bell.clone() }, consumer, bell))
    }

    /// Hands a fact to the reactor; `false` when it cannot keep up.
    #[must_use]
    pub fn send(&self, fact: Fact) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let sent = queue.push(fact).is_ok();
        self.bell.ring_always();
        sent
    }
}

/// Answers that the reactor was promised: a stop waits for them, as long as it may.
#[derive(Clone, Debug, Default)]
pub struct Promises(Arc<AtomicU64>);

impl Promises {
    /// One more is to come. Called by the reactor.
    pub fn made(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// One is in the reactor's queue.
    pub fn kept(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether one is still to come.
    pub fn are_open(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_lost() {
        let bell = Doorbell::new().expect("eventfd");
        let (mut producer, mut consumer) = rtrb::RingBuffer::<u64>::new(64);
        let total = 20_000;
        let theirs = bell.clone();
        let sender = std::thread::spawn(move || {
            let mut next = 0;
            while next < total {
                if producer.push(next).is_ok() {
                    next += 1;
                    theirs.ring();
                }
            }
        });
        let mut seen = 0;
        while seen < total {
            match consumer.pop() {
                Ok(value) => {
                    assert_eq!(value, seen);
                    seen += 1;
                }
                // A lost wake-up would make this wait its whole minute.
                Err(_) => bell.wait(60_000, || consumer.is_empty()),
            }
        }
        sender.join().expect("the sender ends");
    }
}
