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
}

/// A gap and the number of the first input that it stands for.
pub type LastGap = (u64, Gap);

/// Both halves.
///
/// # Errors
/// What eventfd(2) says.
pub fn pair() -> nix::Result<(Tee, Tail)> {
    let (producer, consumer) = RingBuffer::new(QUEUE);
    let bell = Doorbell::new()?;
    let lost = Arc::new(AtomicU64::new(0));
    let tee = Tee { queue: producer, bell: bell.clone(), scratch: vec![0; SCRATCH], gap: None, lost: lost.clone() };
    Ok((tee, Tail { queue: consumer, bell, finished: Arc::new(OnceLock::new()), lost }))
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
        self.bell.ring();
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
    let mut pending = BytesMut::with_capacity(1 << 16);
    loop {
        // Read before the queue: what is pushed before the reactor ends is then still seen.
        let finished = tail.finished.get().copied();
        let took = take(&mut tail.queue, &mut pending);
        if let Err(error) = drain(&mut pending, &mut writer) {
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

impl Tail {
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

/// Appends the whole records in `pending`; a part of one stays for the next time.
fn drain(pending: &mut BytesMut, writer: &mut RecordingWriter<std::fs::File>) -> Result<(), RecordingError> {
    while pending.len() >= HEAD {
        let mut head = &pending[..HEAD];
        let (kind, len, seq) = (head.get_u8(), head.get_u32_le() as usize, head.get_u64_le());
        if pending.len() < HEAD + len {
            return Ok(());
        }
        pending.advance(HEAD);
        let body = pending.split_to(len);
        writer.append(RecordKind::from_code(kind), seq, &body)?;
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
