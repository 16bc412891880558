//! The recorder: inputs in as the reactor takes them, a recording file out.
//!
//! Two halves. [`Tee`] sits in the reactor and copies each input into a bounded byte queue: no allocation, no
//! wait; what does not fit is counted and written as a numbered gap. [`write`] runs as a blocking task: it
//! assembles records, compresses and writes. A full disk ends the recording, not the agent.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use bytes::{Buf, BufMut, BytesMut};
use rtrb::{Consumer, Producer, RingBuffer};

use super::{
    queue::Doorbell,
    recording::{Gap, RecordKind, RecordingError, RecordingWriter},
};
use crate::model::input::Fact;

/// Bytes that may wait for the disk.
const QUEUE: usize = 8 << 20;
/// Bytes that may wait for the flight recorder, which writes to memory.
const FLIGHT_QUEUE: usize = 2 << 20;
/// Largest snapshot of the engine.
const SNAPSHOT: usize = FLIGHT_QUEUE - (64 << 10);
/// Largest serialised fact; the resolver splits its lists of cgroups to stay far below.
const SCRATCH: usize = 256 << 10;
/// In the queue: kind, length, sequence number.
const HEAD: usize = 1 + 4 + 8;

/// The reactor's half.
pub struct Tee {
    queue: Producer<u8>,
    bell: Arc<Doorbell>,
    scratch: Vec<u8>,
    gap: Option<LastGap>,
    /// The consumer looks by itself: it is woken only when the queue has no more than this many bytes left.
    wake_below: usize,
    lost: Arc<AtomicU64>,
}

/// The disk's half.
pub struct Tail {
    queue: Consumer<u8>,
    bell: Arc<Doorbell>,
    /// Set by the owner when the reactor has ended, with the gap that the tee could not write any more.
    finished: Arc<OnceLock<Option<LastGap>>>,
    /// Inputs that did not fit into the queue.
    pub lost: Arc<AtomicU64>,
    /// The part of a record that came so far.
    pending: BytesMut,
}

/// A gap and the number of the first input that it stands for.
pub type LastGap = (u64, Gap);

/// Both halves.
///
/// # Errors
/// What eventfd(2) says.
pub fn pair() -> nix::Result<(Tee, Tail)> {
    pair_of(QUEUE, QUEUE)
}

/// Both halves for the flight recorder, and the buffer for snapshots. To wake a thread costs the reactor more than
/// all else it does for an event, so this consumer looks by itself some times a second.
///
/// # Errors
/// What eventfd(2) says.
pub fn flight_pair() -> nix::Result<(Tee, Tail, Vec<u8>)> {
    // Zeroed pages that nobody touches cost nothing: memory is locked on fault.
    pair_of(FLIGHT_QUEUE, FLIGHT_QUEUE / 2).map(|(tee, tail)| (tee, tail, vec![0; SNAPSHOT]))
}

fn pair_of(bytes: usize, wake_below: usize) -> nix::Result<(Tee, Tail)> {
    let (producer, consumer) = RingBuffer::new(bytes);
    let bell = Doorbell::new()?;
    let lost = Arc::new(AtomicU64::new(0));
    let tee = Tee {
        queue: producer,
        bell: bell.clone(),
        scratch: vec![0; SCRATCH],
        gap: None,
        wake_below,
        lost: lost.clone(),
    };
    Ok((tee, Tail { queue: consumer, bell, finished: Arc::new(OnceLock::new()), lost, pending: BytesMut::new() }))
}

impl Tee {
    /// Copies a frame.
    pub fn frame(&mut self, seq: u64, at_ns: u64, frame: &[u8]) {
        self.record(RecordKind::Frame, seq, at_ns, frame);
    }

    /// Copies any other input.
    pub fn fact(&mut self, seq: u64, at_ns: u64, fact: &Fact) {
        let mut scratch = std::mem::take(&mut self.scratch);
        match postcard::to_slice(fact, &mut scratch) {
            Ok(bytes) => {
                let len = bytes.len();
                self.record(RecordKind::Input, seq, at_ns, &scratch[..len]);
            }
            Err(_) => self.skip(seq, at_ns),
        }
        self.scratch = scratch;
    }

    /// Copies the engine's state as it is between two inputs.
    pub fn snapshot(&mut self, seq: u64, at_ns: u64, state: &[u8]) {
        self.record(RecordKind::Snapshot, seq, at_ns, state);
    }

    /// Copies the moment of a decision.
    pub fn decided(&mut self, seq: u64, decided_ns: u64) {
        self.record(RecordKind::Annotation, seq, decided_ns, &decided_ns.to_le_bytes());
    }

    fn record(&mut self, kind: RecordKind, seq: u64, at_ns: u64, body: &[u8]) {
        if let Some((first, gap)) = self.gap {
            if !self.push(RecordKind::Gap, first, &gap.encode()) {
                self.skip(seq, at_ns);
                return;
            }
            self.gap = None;
        }
        if !self.push(kind, seq, body) {
            self.skip(seq, at_ns);
        }
        if self.queue.slots() <= self.wake_below {
            self.bell.ring();
        }
    }

    /// The gap that no later input could be written behind; the tail writes it last.
    pub fn last_gap(&self) -> Option<LastGap> {
        self.gap
    }

    fn skip(&mut self, seq: u64, at_ns: u64) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        let (_, gap) = self.gap.get_or_insert((seq, Gap { count: 0, from_ns: at_ns, to_ns: at_ns }));
        gap.count += 1;
        gap.to_ns = gap.to_ns.max(at_ns);
    }

    fn push(&mut self, kind: RecordKind, seq: u64, body: &[u8]) -> bool {
        let mut head = [0u8; HEAD];
        head[0] = kind.code();
        head[1..5].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[5..].copy_from_slice(&seq.to_le_bytes());
        let Ok(mut chunk) = self.queue.write_chunk(HEAD + body.len()) else { return false };
        let (first, second) = chunk.as_mut_slices();
        let cut = scatter(first, second, 0, &head);
        scatter(first, second, cut, body);
        chunk.commit_all();
        true
    }
}

/// Copies `bytes` to position `at` of the two halves of a wrapped chunk; the position behind them.
fn scatter(first: &mut [u8], second: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    let split = first.len().saturating_sub(at).min(bytes.len());
    if split > 0 {
        first[at..at + split].copy_from_slice(&bytes[..split]);
    }
    if split < bytes.len() {
        let start = (at + split) - first.len();
        second[start..start + bytes.len() - split].copy_from_slice(&bytes[split..]);
    }
    at + bytes.len()
}

/// Writes until the reactor has ended and the queue is empty. Blocks on the disk: run it as a blocking task.
///
/// # Errors
/// The first failed write; what stands in the file up to then is a valid recording.
pub fn write(mut tail: Tail, mut writer: RecordingWriter<std::fs::File>) -> Result<(), RecordingError> {
    let mut pending = std::mem::take(&mut tail.pending);
    loop {
        // Read before the queue: what is pushed before the reactor ends is then still seen.
        let finished = tail.finished.get().copied();
        let took = take(&mut tail.queue, &mut pending);
        let drained = drain(&mut pending, &mut |record| writer.append(record.kind, record.seq, record.body));
        if let Err(error) = drained {
            // Leave a valid file behind; the reader reports a torn tail either way.
            let _ = writer.truncate_to_last_block();
            return Err(error);
        }
        if took {
            continue;
        }
        if let Some(last_gap) = finished {
            if let Some((seq, gap)) = last_gap {
                writer.append_gap(seq, gap)?;
            }
            return writer.finish();
        }
        writer.flush_block()?;
        tail.bell.wait(1000, || tail.queue.is_empty() && tail.finished.get().is_none());
    }
}

/// A record on its way.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// What it is.
    pub kind: RecordKind,
    /// Number of the input it belongs to.
    pub seq: u64,
    /// Its bytes.
    pub body: &'a [u8],
}

impl<'a> Kept<'a> {
    /// The first record of a queue's bytes and what stands behind it; `None` when not all of it is there yet.
    pub fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut head = bytes.get(..HEAD)?;
        let (kind, len, seq) = (head.get_u8(), head.get_u32_le() as usize, head.get_u64_le());
        let body = bytes.get(HEAD..HEAD + len)?;
        Some((Self { kind: RecordKind::from_code(kind), seq, body }, &bytes[HEAD + len..]))
    }
}

impl Tail {
    /// Whether the reactor has ended. Ask before [`Self::take_whole`]: what was pushed before is then still seen.
    pub fn finished(&self) -> bool {
        self.finished.get().is_some()
    }

    /// Hands out the records that wait, for a consumer that cannot fail; whether there were any.
    pub fn take_whole(&mut self, keep: &mut impl FnMut(Kept<'_>)) -> bool {
        let took = take(&mut self.queue, &mut self.pending);
        let done: Result<(), std::convert::Infallible> = drain(&mut self.pending, &mut |record| {
            keep(record);
            Ok(())
        });
        let Ok(()) = done;
        took
    }

    /// Sleeps until there is something, or the reactor ends, or the time is over.
    pub fn wait(&self, timeout_ms: u16) {
        self.bell.wait(timeout_ms, || self.queue.slots() < FLIGHT_QUEUE / 2 && !self.finished());
    }

    /// What wakes [`Self::wait`].
    pub fn bell(&self) -> Arc<Doorbell> {
        self.bell.clone()
    }

    /// A handle that ends [`write`] once the queue is empty. It takes what [`Tee::last_gap`] said at the end.
    pub fn finisher(&self) -> impl FnOnce(Option<LastGap>) + Send + use<> {
        let (finished, bell) = (self.finished.clone(), self.bell.clone());
        move |last_gap| {
            let _ = finished.set(last_gap);
            bell.ring_always();
        }
    }
}

/// Moves what is in the queue to the end of `pending`.
fn take(queue: &mut Consumer<u8>, pending: &mut BytesMut) -> bool {
    let Ok(chunk) = queue.read_chunk(queue.slots().min(1 << 16)) else { return false };
    let (first, second) = chunk.as_slices();
    let took = !first.is_empty();
    pending.put_slice(first);
    pending.put_slice(second);
    chunk.commit_all();
    took
}

/// Hands out the whole records in `pending`; a part of one stays for the next time.
fn drain<E>(pending: &mut BytesMut, keep: &mut impl FnMut(Kept<'_>) -> Result<(), E>) -> Result<(), E> {
    while let Some((record, _)) = Kept::split(pending) {
        let len = HEAD + record.body.len();
        keep(record)?;
        pending.advance(len);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::recording::{End, RecordingReader, tests::header};

    #[test]
    fn what_did_not_fit_until_the_end_is_in_the_file_as_a_gap() {
        let path = std::env::temp_dir().join(format!("faultline-recorder-{}.flt", std::process::id()));
        let (mut tee, tail) = pair().expect("eventfd");
        let frame = vec![7; 64 << 10];
        let total = (QUEUE / frame.len()) as u64 + 10;
        (1..=total).for_each(|seq| tee.frame(seq, seq * 10, &frame));
        let (first, gap) = tee.last_gap().expect("the queue is too short for all");
        assert_eq!((first + gap.count, gap.from_ns, gap.to_ns), (total + 1, first * 10, total * 10));
        tail.finisher()(tee.last_gap());
        write(tail, RecordingWriter::create(&path, &header()).expect("a temporary file")).expect("room on disk");
        let mut reader = RecordingReader::open(&path).expect("a recording");
        let mut kinds = Vec::new();
        while let Some(record) = reader.next().expect("an intact file") {
            kinds.push((record.kind, record.seq));
        }
        std::fs::remove_file(&path).expect("clean up");
        assert_eq!(kinds.last(), Some(&(RecordKind::Gap, first)));
        assert_eq!(kinds.len() as u64, first, "every frame before the gap, and the gap");
        assert_eq!(reader.end(), End::Clean);
    }
}
