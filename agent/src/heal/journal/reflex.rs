//! The reflex journal: slots in a shared, locked mapping. In: intents and ends, as plain stores; out: a file that tells,
//! after SIGKILL at any instruction, what was about to be done and what was done.
//!
//! No system call, no allocation, no lock after [`ReflexJournal::create`]. A slot whose freeze still stands is never
//! overwritten: when all slots are taken, the answer is "no slot", and without a slot there is no action.
#![expect(unsafe_code, reason = "maps a file that others read")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::posix_fallocate;
use nix::sys::mman::{MapFlags, ProtFlags, mlock, mmap, munmap};

use super::entry::Entry;
use super::slot::{self, BYTES, FreezeUndo, Intent, Slot, WORDS, Words};
use super::{JournalError, Session};
use crate::kernel::CgroupLayout;
use crate::model::action::{Done, Outcome, Verb};
use crate::model::entity::Entity;

/// How often a file that looks damaged is read.
const READS: usize = 3;

/// A slot that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotIndex(usize);

/// The writer; one per agent, on the reactor's thread.
#[derive(Debug)]
pub struct ReflexJournal {
    start: NonNull<AtomicU64>,
    slots: usize,
    /// The same words, so that nothing is ever read back from the mapping.
    shadow: Box<[Words]>,
    /// Freezes that still stand, by slot.
    standing: Box<[Option<FreezeUndo>]>,
    next: usize,
    seq: u64,
    locked: bool,
}

// SAFETY: the mapping is shared memory that is only stored to, through atomics, by the one owner of this value.
unsafe impl Send for ReflexJournal {}

impl ReflexJournal {
    /// Makes a new file in place of the one that was there; whoever calls has settled that one. All its room is
    /// allocated here, so that a full `/run` is an error now and not a SIGBUS later.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::File`].
    pub(in crate::heal) fn create(path: &Path, slots: usize, session: &Session) -> Result<Self, JournalError> {
        let slots = slots.max(1);
        let fresh = path.with_extension("new");
        let bytes = BYTES * (slots + 1);
        let file = prepare_file(&fresh, bytes, session, slots).map_err(JournalError::file("make", &fresh))?;
        let start = map(&file, bytes).map_err(JournalError::file("map", &fresh))?;
        let cells = || vec![[0; WORDS]; slots].into_boxed_slice();
        let locked = lock(start, bytes);
        let journal =
            Self { start, slots, shadow: cells(), standing: vec![None; slots].into(), next: 0, seq: 0, locked };
        fs::rename(&fresh, path).map_err(JournalError::file("rename", path))?;
        Ok(journal)
    }

    /// Whether its memory is locked; if not, a store may have to wait for the disk under memory pressure.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Writes down what is about to be done. `None`: no free slot (or no target of a reflex), so it must not be done.
    pub fn intend(&mut self, intent: &Intent) -> Option<SlotIndex> {
        let slot = (0..self.slots).map(|n| (self.next + n) % self.slots).find(|at| self.is_free(*at))?;
        let words = slot::encode(self.seq + 1, intent)?;
        self.seq += 1;
        self.next = (slot + 1) % self.slots;
        self.store(slot, 0, 0);
        for (at, word) in words.iter().enumerate().skip(1) {
            self.store(slot, at, *word);
        }
        self.store(slot, 0, words[0]);
        self.shadow[slot] = words;
        let stands = intent.freeze.filter(|freeze| intent.request.verb == Verb::FreezeCgroup && !freeze.was_frozen);
        self.standing[slot] = stands;
        Some(SlotIndex(slot))
    }

    /// Writes down what came of it. A freeze that was refused or a thaw that was made frees its slot.
    pub fn finish(&mut self, slot: SlotIndex, done: &Done) {
        self.end(slot.0, done, None);
        if done.reason.is_some() && done.started_ns == 0 {
            self.standing[slot.0] = None;
        }
        let Ok(Some(Slot { intent, .. })) = slot::decode(&self.shadow[slot.0]) else { return };
        match intent.freeze {
            Some(freeze) if intent.request.verb == Verb::ThawCgroup && done.reason.is_none() => self.thawed(&freeze),
            _ => {}
        }
    }

    /// What verification saw of action `id`; nothing when its slot was used again meanwhile.
    pub fn outcome(&mut self, id: u64, outcome: Outcome) {
        let Some(slot) = self.shadow.iter().position(|words| words[0] != 0 && words[2] == id) else { return };
        if let Ok(Some(Slot { done: Some(done), .. })) = slot::decode(&self.shadow[slot]) {
            self.end(slot, &done, Some(outcome));
        }
    }

    /// The cgroup is not frozen by us any more: to be called when the executor has thawed it.
    pub fn thawed(&mut self, freeze: &FreezeUndo) {
        let same = |one: &FreezeUndo| one.cgroup == freeze.cgroup && one.knob == freeze.knob;
        for standing in &mut self.standing {
            if standing.as_ref().is_some_and(same) {
                *standing = None;
            }
        }
    }

    /// The same for a target as requests name it: the executor has thawed it, or its cgroup was removed.
    pub fn forget(&mut self, target: Entity) {
        for (standing, words) in self.standing.iter_mut().zip(&self.shadow) {
            let of_target = |slot: Slot| slot.intent.request.target == target;
            if standing.is_some() && slot::decode(words).ok().flatten().is_some_and(of_target) {
                *standing = None;
            }
        }
    }

    /// How many freezes stand.
    pub fn standing(&self) -> usize {
        self.standing.iter().flatten().count()
    }

    /// Free: never used, or over, with nothing left to take back.
    fn is_free(&self, slot: usize) -> bool {
        self.standing[slot].is_none()
    }

    /// While the last words change, the slot is an intent again: a death here leaves a half-done action, not a damaged one.
    fn end(&mut self, slot: usize, done: &Done, outcome: Option<Outcome>) {
        let mut words = self.shadow[slot];
        self.store(slot, 0, slot::reopened(&words));
        slot::encode_end(&mut words, done, outcome);
        for (at, word) in words.iter().enumerate().skip(slot::INTENT) {
            self.store(slot, at, *word);
        }
        self.store(slot, 0, words[0]);
        self.shadow[slot] = words;
    }

    /// Release: the compiler may not move a store past the one of word 0, and a reader on another CPU sees them in order.
    fn store(&self, slot: usize, word: usize, value: u64) {
        debug_assert!(slot < self.slots && word < WORDS);
        // SAFETY: slot + 1 <= slots and word < WORDS, so the cell is inside the mapping of (slots + 1) * WORDS words.
        unsafe { self.start.add((slot + 1) * WORDS + word).as_ref() }.store(value, Ordering::Release);
    }

    /// All slots of a file, oldest first. It may be written to meanwhile.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`], [`JournalError::Version`]; no file is no entries.
    pub fn read(path: &Path, layout: &CgroupLayout) -> Result<Vec<Entry>, JournalError> {
        let mut last = read_once(path, layout);
        for _ in 1..READS {
            // A slot that was copied while it changed looks damaged; what really is stays so.
            if !matches!(last, Err(JournalError::Corrupt { .. })) {
                break;
            }
            last = read_once(path, layout);
        }
        last
    }
}

fn read_once(path: &Path, layout: &CgroupLayout) -> Result<Vec<Entry>, JournalError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(JournalError::file("read", path))?,
    };
    let corrupt = |record: usize| JournalError::Corrupt {
        path: path.to_owned(),
        record: record as u64,
        offset: (record * BYTES) as u64,
    };
    let (version, session) = slot::parse_header(&bytes).ok_or_else(|| corrupt(0))?;
    if version != super::VERSION {
        return Err(JournalError::Version { path: path.to_owned(), found: version });
    }
    let mut slots = Vec::new();
    for (record, chunk) in bytes.chunks_exact(BYTES).enumerate().skip(1) {
        slots.extend(slot::decode(&words(chunk)).map_err(|()| corrupt(record))?);
    }
    slots.sort_by_key(|slot| slot.seq);
    Ok(slots.iter().map(|slot| Entry::of_slot(&session, slot, layout)).collect())
}

impl Drop for ReflexJournal {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used after this.
        let _ = unsafe { munmap(self.start.cast(), BYTES * (self.slots + 1)) };
    }
}

fn words(chunk: &[u8]) -> Words {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(chunk.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_ne_bytes);
    }
    words
}

fn prepare_file(path: &PathBuf, bytes: usize, session: &Session, slots: usize) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    posix_fallocate(&file, 0, libc::off_t::try_from(bytes).map_err(io::Error::other)?)?;
    file.write_all(&slot::header(session, slots))?;
    Ok(file)
}

fn map(file: &File, bytes: usize) -> io::Result<NonNull<AtomicU64>> {
    let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh shared mapping of a file of this length that nobody truncates: it is replaced by rename only.
    let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE, file, 0) }?;
    Ok(start.cast())
}

fn lock(start: NonNull<AtomicU64>, bytes: usize) -> bool {
    // SAFETY: the mapping made just before, of this length.
    unsafe { mlock(start.cast(), bytes) }.is_ok()
}
