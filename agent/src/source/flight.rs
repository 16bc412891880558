//! The flight recorder: the last minutes of all inputs, always, in memory. In: what the reactor's tee copies,
//! with a snapshot of the engine at every mark. Out: a recording file when a fault opens.
//!
//! The window is a row of segments, each of which starts with a snapshot, so that the oldest can be dropped
//! whole and the rest still replays. A dump is an ordinary recording: it starts from the oldest snapshot and
//! holds the names that were told before it, so that its lines are those of the live run, byte for byte.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    flight_window::{Names, Segment},
    queue::Doorbell,
    recorder::{Kept, Tail},
    recording::{Header, RecordKind, RecordingError, RecordingWriter},
};
use crate::clock;

/// Packed bytes of the whole window at most.
const WINDOW_BYTES: usize = 4 << 20;
/// Segments of the window.
pub const SEGMENTS: usize = 4;
/// How often the queue is looked at when nothing wakes, ms.
const LOOK_MS: u64 = 250;
/// What follows a fault for so long is in its dump, too, ns.
const AFTERMATH_NS: u64 = 5_000_000_000;

/// Where dumps go and how many are kept.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Directory, made when it is missing.
    pub dir: PathBuf,
    /// Dumps kept; the oldest give way.
    pub keep: usize,
}

/// The reactor's way to ask for a dump.
#[derive(Clone, Debug)]
pub struct Trigger {
    fault: Arc<AtomicU64>,
    bell: Arc<Doorbell>,
}

impl Trigger {
    /// A fault opened: keep what led to it. Further faults before the dump is written join it.
    pub fn pull(&self, fault: u64) {
        let _ = self.fault.compare_exchange(0, fault, Ordering::AcqRel, Ordering::Relaxed);
        self.bell.ring();
    }
}

/// The side that keeps the window; runs as a blocking task.
pub struct Flight {
    tail: Tail,
    header: Header,
    shelf: Shelf,
    trigger: Arc<AtomicU64>,
    segments: VecDeque<Segment>,
    names: Names,
    /// The fault to dump for, and when.
    due: Option<(u64, u64)>,
}

impl Flight {
    /// Over the tail of a tee that also gets snapshots. `header` is that of the session.
    pub fn new(tail: Tail, header: Header, shelf: Shelf) -> (Self, Trigger) {
        let fault = Arc::new(AtomicU64::new(0));
        let trigger = Trigger { fault: fault.clone(), bell: tail.bell() };
        let segments = VecDeque::with_capacity(SEGMENTS + 1);
        (Self { tail, header, shelf, trigger: fault, segments, names: Names::default(), due: None }, trigger)
    }

    /// Keeps the window until the reactor has ended; writes a dump that is still due then. Blocking.
    pub fn run(mut self) {
        loop {
            let finished = self.tail.finished();
            let took = self.collect();
            self.look_for_faults();
            let now = clock::monotonic_ns();
            if self.due.is_some_and(|(_, at_ns)| now >= at_ns || (finished && !took)) {
                self.dump();
            }
            if finished && !took {
                return;
            }
            let wait_ms =
                self.due.map_or(LOOK_MS, |(_, at)| at.saturating_sub(now).div_ceil(1_000_000).clamp(1, LOOK_MS));
            self.tail.wait(wait_ms as u16);
        }
    }

    /// Takes in what waits; whether there was any.
    fn collect(&mut self) -> bool {
        let (segments, names) = (&mut self.segments, &mut self.names);
        self.tail.take_whole(&mut |record| keep(segments, names, record))
    }

    fn look_for_faults(&mut self) {
        let fault = self.trigger.swap(0, Ordering::AcqRel);
        if fault != 0 && self.due.is_none() {
            self.due = Some((fault, clock::monotonic_ns() + AFTERMATH_NS));
        }
    }

    fn dump(&mut self) {
        let Some((fault, _)) = self.due.take() else { return };
        match self.write(fault) {
            Ok(Some(path)) => tracing::info!(file = %path.display(), fault, "flight recording written"),
            Ok(None) => tracing::warn!(fault, "no flight recording: the engine's state did not fit into a snapshot"),
            Err(error) => tracing::warn!(%error, fault, "no flight recording"),
        }
    }

    /// Writes the window. `None` when it has no snapshot to start from.
    fn write(&mut self, fault: u64) -> Result<Option<PathBuf>, RecordingError> {
        let Some(first) = self.segments.front() else { return Ok(None) };
        let header = Header { snapshot: first.snapshot(), ..self.header.clone() };
        let path = self.shelf.dir.join(name(&header, fault));
        let made = std::fs::create_dir_all(&self.shelf.dir);
        made.map_err(|cause| RecordingError::Create { path: self.shelf.dir.clone(), cause })?;
        let mut writer = RecordingWriter::create(&path, &header)?;
        for body in self.names.told() {
            writer.append(RecordKind::Names, 0, &body)?;
        }
        for segment in &mut self.segments {
            segment.each(&mut |record| writer.append(record.kind, record.seq, record.body))?;
        }
        writer.finish()?;
        self.shelf.tidy();
        Ok(Some(path))
    }
}

/// A file name that sorts by time: wall clock of the dump, and the fault.
fn name(header: &Header, fault: u64) -> String {
    let now = clock::rfc3339(&header.anchor, clock::monotonic_ns()).to_string();
    let digits: String = now.chars().filter(|c| c.is_ascii_digit() || *c == 'T').take(18).collect();
    format!("{digits}Z-f{fault}.flt")
}

/// Takes a record into the window.
fn keep(segments: &mut VecDeque<Segment>, names: &mut Names, record: Kept<'_>) {
    if record.kind == RecordKind::Snapshot {
        segments.push_back(Segment::new(record.body));
        while segments.len() > SEGMENTS {
            segments.pop_front().into_iter().for_each(|gone| gone.names(names));
        }
        return;
    }
    if let Some(segment) = segments.back_mut() {
        segment.push(record);
    } else if record.kind == RecordKind::Input {
        // Before the first snapshot there is only what is told at start.
        names.learn(record.body);
    }
    // Under a flood the window gets shorter, down to nothing until the next snapshot.
    while segments.iter().map(Segment::bytes).sum::<usize>() > WINDOW_BYTES {
        segments.pop_front().into_iter().for_each(|gone| gone.names(names));
    }
}

impl Shelf {
    /// Removes the oldest dumps beyond `keep`; only files that this recorder named.
    fn tidy(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let ours = |name: &str| name.len() > 22 && name.contains("Z-f") && name.ends_with(".flt");
        let mut names: Vec<_> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.retain(|name| ours(name));
        names.sort();
        let gone = names.len().saturating_sub(self.keep);
        for name in &names[..gone] {
            if let Err(error) = std::fs::remove_file(self.dir.join(name)) {
                tracing::warn!(%error, name, "an old flight recording stays");
            }
        }
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
