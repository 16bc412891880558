//! The line writer: outputs in from the reactor's queue, lines out to a stream that may block.
//!
//! The reactor's half never waits. Events give way first: the last quarter of the queue is kept for the rest.
//! Names are held back until they fit, so that later lines still have them; any other output that does not
//! fit is counted, and a `loss` line says so once the reader has caught up.

use std::{
    collections::VecDeque,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::Exporter;
use crate::{
    model::output::{Loss, LossReason, Output},
    source::queue::Doorbell,
};

/// Outputs that may wait for the stream.
const QUEUE: usize = 4096;
/// Places kept free of events.
const KEPT: usize = QUEUE / 4;
/// Places that must be free before a `loss` line is worth its own.
const CAUGHT_UP: usize = QUEUE / 2;
/// Outputs with names that are held back at most; each has up to a thousand names.
const NAMES: usize = 512;

/// One output and the moment its decision stood.
type Item = (Output, Option<u64>);

/// The reactor's half.
pub struct Sink {
    queue: rtrb::Producer<Item>,
    bell: Arc<Doorbell>,
    /// Names that did not fit yet, oldest first.
    names: VecDeque<Output>,
    /// What did not fit since the last `loss` line.
    unsaid: Option<Loss>,
    lost: u64,
}

/// The stream's half.
pub struct Lines {
    queue: rtrb::Consumer<Item>,
    bell: Arc<Doorbell>,
    finished: Arc<AtomicBool>,
}

/// Both halves.
///
/// # Errors
/// What eventfd(2) says.
pub fn pair() -> nix::Result<(Sink, Lines)> {
    let (producer, consumer) = rtrb::RingBuffer::new(QUEUE);
    let bell = Doorbell::new()?;
    let lines = Lines { queue: consumer, bell: bell.clone(), finished: Arc::new(AtomicBool::new(false)) };
    let names = VecDeque::with_capacity(NAMES);
    Ok((Sink { queue: producer, bell, names, unsaid: None, lost: 0 }, lines))
}

impl Sink {
    /// Hands an output over, holds it back or counts it.
    pub fn push(&mut self, output: &Output, decided_ns: Option<u64>) {
        self.catch_up();
        let gives_way = matches!(output, Output::Event(_)) && self.queue.slots() <= KEPT;
        // Behind names that wait nothing may pass, or it would be printed without them.
        if gives_way || !self.names.is_empty() || self.queue.push((output.clone(), decided_ns)).is_err() {
            self.hold_or_count(output);
        }
        self.bell.ring();
    }

    fn catch_up(&mut self) {
        while self.queue.slots() > 0
            && let Some(names) = self.names.pop_front()
        {
            // There was room, and only this thread fills it.
            let _ = self.queue.push((names, None));
        }
        if self.queue.slots() > CAUGHT_UP
            && let Some(loss) = self.unsaid.take()
        {
            let _ = self.queue.push((Output::Loss(loss), None));
        }
    }

    fn hold_or_count(&mut self, output: &Output) {
        if matches!(output, Output::Cgroups(_) | Output::Devices(_) | Output::DropReasons(_))
            && self.names.len() < NAMES
        {
            self.names.push_back(output.clone());
            return;
        }
        self.lost += 1;
        let at = output.at_ns();
        let first = Loss { sensor: None, count: 0, reason: LossReason::ExportFull, from_ns: at, to_ns: at };
        let unsaid = self.unsaid.get_or_insert(first);
        unsaid.count += 1;
        unsaid.to_ns = unsaid.to_ns.max(at);
    }

    /// Outputs that were not printed.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// What still waits when the reactor has ended, to be printed behind the queue.
    pub fn rest(self) -> impl Iterator<Item = Output> {
        self.names.into_iter().chain(self.unsaid.map(Output::Loss))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::input::DeviceName;

    fn loss(at_ns: u64) -> Output {
        Output::Loss(Loss { sensor: None, count: 1, reason: LossReason::Missed, from_ns: at_ns, to_ns: at_ns })
    }

    fn names(dev: u32) -> Output {
        Output::Devices(Arc::from([DeviceName { dev, name: dev.to_string() }]))
    }

    #[test]
    fn names_wait_for_the_reader_and_what_is_lost_is_said_behind_them() {
        let (mut sink, mut lines) = pair().expect("eventfd");
        for at in 0..QUEUE as u64 {
            sink.push(&loss(at), None);
        }
        for dev in 0..3 {
            sink.push(&names(dev), None);
        }
        sink.push(&loss(9000), None);
        sink.push(&loss(9001), None);
        assert_eq!(sink.lost(), 2);
        while lines.queue.pop().is_ok() {}
        sink.push(&loss(9002), None);
        let said: Vec<Output> = std::iter::from_fn(|| lines.queue.pop().ok()).map(|item| item.0).collect();
        assert!(matches!(&said[..3], [Output::Devices(_), Output::Devices(_), Output::Devices(_)]), "{said:?}");
        let Output::Loss(full) = &said[3] else { panic!("{said:?}") };
        assert_eq!((full.reason, full.count), (LossReason::ExportFull, 2));
        assert_eq!((full.from_ns, full.to_ns), (9000, 9001));
        assert_eq!(said.len(), 5);
    }

    #[test]
    fn what_still_waits_at_the_end_is_handed_out() {
        let (mut sink, _lines) = pair().expect("eventfd");
        for at in 0..QUEUE as u64 {
            sink.push(&loss(at), None);
        }
        sink.push(&names(1), None);
        sink.push(&loss(9000), None);
        let rest: Vec<Output> = sink.rest().collect();
        assert!(matches!(&rest[..], [Output::Devices(_), Output::Loss(_)]), "{rest:?}");
    }
}
