//! One slot of the reflex journal: 16 words of 8 bytes. In: an intent, later its end; out: the same, or "damaged".
//!
//! Word 0 holds state and checksum and is stored last, in one piece: whatever instruction the process dies at, the slot
//! is either empty, or whole in its former state, or whole in its new one.

use super::Session;
use crate::heal::cgroup::Knob;
use crate::model::action::{Done, Limit, Outcome, Reason, Request, Verb};
use crate::model::entity::{Entity, Tree};

/// Words of a slot.
pub(super) const WORDS: usize = 16;
/// Bytes of a slot.
pub(super) const BYTES: usize = WORDS * 8;
/// Words that an intent covers with its checksum: 1 up to this one, not included.
pub(super) const INTENT: usize = 13;

/// The state in the low half of word 0; far enough apart that no flipped bit makes one of another. A word of 0 is empty.
const INTENDED: u64 = u32::from_ne_bytes(*b"INTD") as u64;
const DONE: u64 = u32::from_ne_bytes(*b"DONE") as u64;

/// What a slot's raw words are.
pub(super) type Words = [u64; WORDS];

/// How to take back a freeze whose path does not fit into a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreezeUndo {
    /// [`Knob::Freeze`] (v2) or [`Knob::FreezerState`] (v1); it also says in which hierarchy.
    pub knob: Knob,
    /// The frozen cgroup's id in that hierarchy.
    pub cgroup: u64,
    /// Whether it had been told to freeze before.
    pub was_frozen: bool,
}

/// An action that is about to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intent {
    /// What was asked.
    pub request: Request,
    /// For freeze and thaw.
    pub freeze: Option<FreezeUndo>,
    /// For a process: its start, clock ticks since boot; else 0.
    pub start_ticks: u64,
    /// When, CLOCK_MONOTONIC ns.
    pub at_ns: u64,
}

/// A slot that was read back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slot {
    pub seq: u64,
    pub intent: Intent,
    pub done: Option<Done>,
    pub outcome: Option<Outcome>,
}

/// Words 1 to 12; `None` when the target is none that a reflex has.
pub(super) fn encode(seq: u64, intent: &Intent) -> Option<Words> {
    let request = &intent.request;
    let (kind, key) = match request.target {
        Entity::Unit(key) => (1, key),
        Entity::Cgroup(Tree::Process, id) => (2, id),
        Entity::Cgroup(Tree::Memory, id) => (3, id),
        Entity::Process(pid) => (4, u64::from(pid)),
        Entity::Executable(_) | Entity::Device(_) | Entity::Peer { .. } | Entity::Kernel { .. } => return None,
    };
    let knob = intent.freeze.map_or(0, |freeze| if freeze.knob == Knob::FreezerState { 2 } else { 1 });
    let was_frozen = u64::from(intent.freeze.is_some_and(|freeze| freeze.was_frozen));
    let verb = position(Verb::ALL, &request.verb);
    let mut words = [0; WORDS];
    words[1..INTENT].copy_from_slice(&[
        seq,
        request.id,
        request.fault,
        intent.at_ns,
        verb | kind << 8 | knob << 16 | was_frozen << 24,
        key,
        intent.freeze.map_or(0, |freeze| freeze.cgroup),
        intent.start_ticks,
        request.evidence_ns,
        request.evidence_max_age_ns,
        request.timeout_ns,
        request.verify_ns,
    ]);
    words[0] = seal(INTENDED, &words[1..INTENT]);
    Some(words)
}

/// Words 13 to 15 of an action that is over.
pub(super) fn encode_end(words: &mut Words, done: &Done, outcome: Option<Outcome>) {
    words[13] = done.started_ns;
    words[14] = done.finished_ns;
    words[15] = done.reason.map_or(0, |reason| position(Reason::ALL, &reason) + 1)
        | outcome.map_or(0, |outcome| position(Outcome::ALL, &outcome) + 1) << 8;
    words[0] = seal(DONE, &words[1..]);
}

/// Word 0 of the same slot as an intent only; valid while words 13 to 15 change.
pub(super) fn reopened(words: &Words) -> u64 {
    seal(INTENDED, &words[1..INTENT])
}

/// `Ok(None)`: empty, or died while it was written, before the action. `Err`: damaged.
pub(super) fn decode(words: &Words) -> Result<Option<Slot>, ()> {
    let (state, covered) = match words[0] & 0xffff_ffff {
        _ if words[0] == 0 => return Ok(None),
        INTENDED => (INTENDED, &words[1..INTENT]),
        DONE => (DONE, &words[1..]),
        _ => return Err(()),
    };
    if words[0] != seal(state, covered) {
        return Err(());
    }
    let intent = intent(words).ok_or(())?;
    if state == INTENDED {
        return Ok(Some(Slot { seq: words[1], intent, done: None, outcome: None }));
    }
    let reason = option(Reason::ALL, words[15] & 0xff)?;
    let outcome = option(Outcome::ALL, words[15] >> 8 & 0xff)?;
    let done = Done { id: words[2], reason, started_ns: words[13], finished_ns: words[14] };
    Ok(Some(Slot { seq: words[1], intent, done: Some(done), outcome }))
}

fn intent(words: &Words) -> Option<Intent> {
    let byte = |at: u32| (words[5] >> at) & 0xff;
    let target = match (byte(8), words[6]) {
        (1, key) => Entity::Unit(key),
        (2, id) => Entity::Cgroup(Tree::Process, id),
        (3, id) => Entity::Cgroup(Tree::Memory, id),
        (4, pid) => Entity::Process(u32::try_from(pid).ok()?),
        _ => return None,
    };
    let knob = match byte(16) {
        0 => None,
        1 => Some(Knob::Freeze),
        2 => Some(Knob::FreezerState),
        _ => return None,
    };
    let freeze = knob.map(|knob| FreezeUndo { knob, cgroup: words[7], was_frozen: byte(24) == 1 });
    let request = Request {
        id: words[2],
        fault: words[3],
        verb: *Verb::ALL.get(usize::try_from(byte(0)).ok()?)?,
        target,
        limit: Limit::default(),
        evidence_ns: words[9],
        evidence_max_age_ns: words[10],
        timeout_ns: words[11],
        verify_ns: words[12],
    };
    Some(Intent { request, freeze, start_ticks: words[8], at_ns: words[4] })
}

fn position<T: PartialEq>(all: &[T], one: &T) -> u64 {
    all.iter().position(|other| other == one).unwrap_or(all.len()) as u64
}

fn option<T: Copy>(all: &[T], code: u64) -> Result<Option<T>, ()> {
    match usize::try_from(code) {
        Ok(0) => Ok(None),
        Ok(code) => all.get(code - 1).copied().map(Some).ok_or(()),
        Err(_) => Err(()),
    }
}

fn seal(state: u64, covered: &[u64]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    for word in covered {
        hasher.update(&word.to_ne_bytes());
    }
    u64::from(hasher.finalize()) << 32 | state
}

/// First eight bytes of the file.
const MAGIC: u64 = u64::from_ne_bytes(*b"FLTREFLX");

/// The header: one slot's room.
pub(super) fn header(session: &Session, slots: usize) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&MAGIC.to_ne_bytes());
    bytes[8..16].copy_from_slice(&u64::from(super::VERSION).to_ne_bytes());
    bytes[16..24].copy_from_slice(&(slots as u64).to_ne_bytes());
    bytes[24..32].copy_from_slice(&u64::from(session.pid).to_ne_bytes());
    bytes[32..40].copy_from_slice(&session.start_ticks.to_ne_bytes());
    let boot = session.boot_id.as_bytes();
    let len = boot.len().min(BOOT.len());
    bytes[BOOT.start..BOOT.start + len].copy_from_slice(&boot[..len]);
    let crc = crc32fast::hash(&bytes[..BOOT.end]);
    bytes[124..].copy_from_slice(&crc.to_ne_bytes());
    bytes
}

/// Where the boot id is: 36 characters, padded with NUL.
const BOOT: std::ops::Range<usize> = 40..80;

/// Version and session of a header; `None` when it is none.
pub(super) fn parse_header(bytes: &[u8]) -> Option<(u32, Session)> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let crc = u32::from_ne_bytes(bytes.get(124..128)?.try_into().ok()?);
    if word(0)? != MAGIC || crc != crc32fast::hash(bytes.get(..BOOT.end)?) {
        return None;
    }
    let boot = bytes.get(BOOT)?.split(|byte| *byte == 0).next()?;
    let boot_id = String::from_utf8(boot.to_vec()).ok()?;
    let session = Session { boot_id, pid: u32::try_from(word(24)?).ok()?, start_ticks: word(32)? };
    Some((u32::try_from(word(8)?).ok()?, session))
}
