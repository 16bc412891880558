//! The line writer: outputs in from the reactor's queue, lines out to a stream that may block.
//!
//! The reactor's half never waits. Events give way first: the last quarter of the queue is kept for faults
//! and losses, and whatever does not fit is counted and reported in the summary.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::Exporter;
use crate::{model::output::Output, source::queue::Doorbell};

/// Outputs that may wait for the stream.
const QUEUE: usize = 4096;
/// Places kept free of events.
const KEPT: usize = QUEUE / 4;

/// One output and the moment its decision stood.
type Item = (Output, Option<u64>);

/// The reactor's half.
pub struct Sink {
    queue: rtrb::Producer<Item>,
    bell: Arc<Doorbell>,
    lost: Arc<AtomicU64>,
}

/// The stream's half.
pub struct Lines {
    queue: rtrb::Consumer<Item>,
    bell: Arc<Doorbell>,
    finished: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
}

/// Both halves.
///
/// # Errors
/// What eventfd(2) says.
pub fn pair() -> nix::Result<(Sink, Lines)> {
    let (producer, consumer) = rtrb::RingBuffer::new(QUEUE);
    let bell = Doorbell::new()?;
    let lost = Arc::new(AtomicU64::new(0));
    let lines =
        Lines { queue: consumer, bell: bell.clone(), finished: Arc::new(AtomicBool::new(false)), lost: lost.clone() };
    Ok((Sink { queue: producer, bell, lost }, lines))
}

impl Sink {
    /// Hands an output over, or counts it.
    pub fn push(&mut self, output: &Output, decided_ns: Option<u64>) {
        let gives_way = matches!(output, Output::Event(_)) && self.queue.slots() <= KEPT;
        if gives_way || self.queue.push((output.clone(), decided_ns)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.bell.ring();
    }
}

impl Lines {
    /// A handle that ends [`Self::write`] once the queue is empty.
    pub fn finisher(&self) -> impl FnOnce() + Send + use<> {
        let (finished, bell) = (self.finished.clone(), self.bell.clone());
        move || {
            finished.store(true, Ordering::Release);
            bell.ring_always();
        }
    }

    /// Lines that were not printed.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Prints until the reactor has ended and the queue is empty. `unresolved` gets cgroup ids to look up.
    /// Blocks on the stream: run it as a blocking task.
    ///
    /// # Errors
    /// The first failed write, such as a closed pipe.
    pub fn write(
        &mut self,
        exporter: &mut Exporter,
        stream: &mut impl Write,
        unresolved: &mut impl FnMut(u64),
    ) -> std::io::Result<()> {
        let mut text = String::with_capacity(1 << 14);
        loop {
            let finished = self.finished.load(Ordering::Acquire);
            while let Ok((output, decided_ns)) = self.queue.pop() {
                if let Output::Unresolved { id } = output {
                    unresolved(id);
                }
                exporter.output(&output, decided_ns, &mut text);
                if text.len() >= 1 << 14 {
                    break;
                }
            }
            if !text.is_empty() {
                stream.write_all(text.as_bytes())?;
                text.clear();
                continue;
            }
            stream.flush()?;
            if finished && self.queue.is_empty() {
                return Ok(());
            }
            self.bell.wait(1000, || self.queue.is_empty() && !self.finished.load(Ordering::Acquire));
        }
    }
}
