//! Handles prepared before. In: a request of the engine, on the reactor's own thread; out: the deed, microseconds later, or
//! `None` where no handle was prepared and the executor has to do it.
//!
//! Everything that can block, allocate or read /proc was done by the [`Preparer`] on the resolver's side: opening, checking
//! who is in the cgroup, finding the v1 freezer. What is left is: age of the evidence, a journal slot, one write(2) into a
//! descriptor (a freeze reads the flag first, so that it can be put back), the slot's end. The reactor closes no descriptor,
//! since a close may sleep: handles go back through a queue that is as long as there can be handles.

mod preparer;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;
use rtrb::{Consumer, Producer, RingBuffer};

use super::cgroup::{Knob, own_freeze_flag};
use super::error::reason_of;
use super::journal::{FreezeUndo, Intent, ReflexJournal};
use super::pidfd::PidFd;
use crate::model::action::{Done, Reason, Request, Verb};
use crate::model::bounded::BoundedMap;
use crate::model::entity::Entity;

pub use preparer::{Preparer, Wanted};

/// What a handle is for.
pub type Key = (Verb, Entity);

/// Descriptors with which one action needs no preparation.
#[derive(Debug)]
pub(in crate::heal) enum Handle {
    /// `cgroup.kill`, and the v1 freezer's state where the same processes have one: SIGKILL does not reach the frozen.
    Kill { file: File, thaw: Option<File> },
    /// `cgroup.freeze` or `freezer.state`, and where to read the flag.
    Freeze { file: File, flag: File, knob: Knob, cgroup: u64 },
    /// One process.
    Process { pidfd: PidFd, start_ticks: u64 },
}

/// From the preparer to the reactor.
#[derive(Debug)]
pub(in crate::heal) enum Message {
    Put(Key, Handle),
    Withdraw(Key),
}

/// The reactor's table.
#[derive(Debug)]
pub struct Handles {
    table: BoundedMap<Key, Handle>,
    news: Consumer<Message>,
    /// Handles to be closed over there.
    back: Producer<Handle>,
    /// Keys whose handle turned out to be stale.
    asked: Producer<Key>,
}

/// A table for `capacity` handles and what fills it. A cgroup takes three handles and up to six descriptors.
pub fn table(
    capacity: usize,
    layout: crate::kernel::CgroupLayout,
    protection: super::Protection,
) -> (Handles, Preparer) {
    let capacity = capacity.max(1);
    // As many as can be in the table and on the way to it: giving back can therefore never fail.
    let lent = 2 * capacity;
    let (put, news) = RingBuffer::new(capacity);
    let (back, returned) = RingBuffer::new(lent);
    let (asked, asking) = RingBuffer::new(capacity);
    let table = BoundedMap::with_capacity(capacity);
    (Handles { table, news, back, asked }, Preparer::new(layout, protection, put, returned, asking, lent))
}

impl Handles {
    /// Takes new handles in; to be called when there is time.
    pub fn take_in(&mut self) {
        while let Ok(message) = self.news.pop() {
            match message {
                Message::Put(key, handle) => {
                    self.give_back(key);
                    if let Some((_, evicted)) = self.table.insert_or_evict(key, handle) {
                        self.push_back(evicted);
                    }
                }
                Message::Withdraw(key) => self.give_back(key),
            }
        }
    }

    /// How many are ready.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Does it, if a handle is ready. No allocation, no lock, no /proc. `now_ns` is CLOCK_MONOTONIC.
    ///
    /// `None`: no handle; nothing was looked at, and the request goes to the executor.
    pub fn execute(
        &mut self,
        request: &Request,
        now_ns: impl Fn() -> u64,
        journal: &mut ReflexJournal,
    ) -> Option<Done> {
        let key = (request.verb, request.target);
        if !self.table.contains_key(&key) {
            self.take_in();
        }
        let handle = self.table.get(&key)?;
        let done = handle.execute(request, &now_ns, journal);
        if matches!(done.reason, Some(Reason::CgroupRecreated | Reason::TargetGone)) {
            self.give_back(key);
            // Full: it was asked for so often that once more does not matter.
            let _ = self.asked.push(key);
        }
        Some(done)
    }

    fn give_back(&mut self, key: Key) {
        if let Some(handle) = self.table.remove(&key) {
            self.push_back(handle);
        }
    }

    fn push_back(&mut self, handle: Handle) {
        if let Err(rtrb::PushError::Full(handle)) = self.back.push(handle) {
            // Cannot happen: the preparer never lends more than fit. A leaked descriptor is better than a close here.
            std::mem::forget(handle);
        }
    }
}

impl Handle {
    fn execute(&self, request: &Request, now_ns: &impl Fn() -> u64, journal: &mut ReflexJournal) -> Done {
        let started_ns = now_ns();
        let refused = |reason| Done { id: request.id, reason: Some(reason), started_ns: 0, finished_ns: now_ns() };
        if started_ns.saturating_sub(request.evidence_ns) > request.evidence_max_age_ns {
            return refused(Reason::EvidenceTooOld);
        }
        let intent = match self.intent(request, started_ns) {
            Ok(intent) => intent,
            Err(error) => return refused(reason_of(&error)),
        };
        if request.verb == Verb::FreezeCgroup && intent.freeze.is_some_and(|freeze| freeze.was_frozen) {
            return refused(Reason::AlreadyFrozen);
        }
        let slot = journal.intend(&intent);
        // What undoes is done all the same: better unwritten than frozen for ever.
        if slot.is_none() && request.verb != Verb::ThawCgroup {
            return refused(Reason::NoJournal);
        }
        let done = match self.act(request.verb) {
            Ok(()) => Done { id: request.id, reason: None, started_ns, finished_ns: now_ns() },
            Err(error) => match reason_of(&error) {
                // Nobody was there to be touched.
                reason @ (Reason::CgroupRecreated | Reason::TargetGone) => refused(reason),
                reason => Done { id: request.id, reason: Some(reason), started_ns, finished_ns: now_ns() },
            },
        };
        if let Some(slot) = slot {
            journal.finish(slot, &done);
        }
        done
    }

    fn intent(&self, request: &Request, at_ns: u64) -> io::Result<Intent> {
        let mut intent = Intent { request: *request, freeze: None, start_ticks: 0, at_ns };
        match self {
            Self::Kill { .. } => {}
            Self::Process { start_ticks, .. } => intent.start_ticks = *start_ticks,
            Self::Freeze { flag, knob, cgroup, .. } => {
                let mut text = [0; 4];
                let read = flag.read_at(&mut text, 0)?;
                let was_frozen = own_freeze_flag(&text[..read]);
                intent.freeze = Some(FreezeUndo { knob: *knob, cgroup: *cgroup, was_frozen });
            }
        }
        Ok(intent)
    }

    fn act(&self, verb: Verb) -> io::Result<()> {
        match self {
            Self::Kill { file, thaw } => {
                write(file, "1")?;
                match thaw.as_ref().map_or(Ok(()), |thaw| write(thaw, Knob::FreezerState.spelled("0"))) {
                    // That freezer cgroup was removed, so nobody is frozen in it.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
                    other => other,
                }
            }
            Self::Freeze { file, knob, .. } => {
                write(file, knob.spelled(if verb == Verb::FreezeCgroup { "1" } else { "0" }))
            }
            Self::Process { pidfd, .. } => pidfd.signal(Signal::SIGKILL),
        }
    }
}

/// One write(2); a cgroup file takes all or nothing.
fn write(mut file: &File, text: &str) -> io::Result<()> {
    file.write(text.as_bytes()).map(drop)
}
