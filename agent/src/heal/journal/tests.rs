//! What the journals still tell after a death, a power cut, a full disk and a flipped bit.

use std::fs;
use std::io::Write;

use nix::sched::{CloneFlags, unshare};

use super::slot::{self, BYTES};
use super::*;
use crate::heal::cgroup::{Change, Knob, Place, Undo};
use crate::heal::fixture::{TempDir, request};
use crate::kernel::{CgroupLayout, Root};
use crate::model::action::{Done, Outcome, Reason, Verb};
use crate::model::entity::{Entity, Tree};

fn session() -> Session {
    Session::current().expect("/proc")
}

fn layout() -> CgroupLayout {
    CgroupLayout::gather(&Root::live()).expect("/proc")
}

fn undo() -> Undo {
    let place = Place { root: "/sys/fs/cgroup/none".into(), path: "/a".into(), id: 99 };
    Undo { changes: vec![Change { place, knob: Knob::CpuMax, old: "max 100000".into(), new: "1000 100000".into() }] }
}

fn done(id: u64) -> Done {
    Done { id, reason: None, started_ns: 5, finished_ns: 6 }
}

fn limit(id: u64) -> crate::model::action::Request {
    request(id, Verb::LimitCgroup, Entity::Unit(1))
}

fn freeze(id: u64, cgroup: u64) -> Intent {
    let freeze = FreezeUndo { knob: Knob::Freeze, cgroup, was_frozen: false };
    let request = request(id, Verb::FreezeCgroup, Entity::Cgroup(Tree::Process, cgroup));
    Intent { request, freeze: Some(freeze), start_ticks: 0, at_ns: id }
}

fn kill(id: u64) -> Intent {
    Intent { request: request(id, Verb::Kill, Entity::Process(77)), freeze: None, start_ticks: 9, at_ns: id }
}

fn open(paths: &Paths) -> RecoveryJournal {
    let mut journal = RecoveryJournal::open(&paths.recovery).expect("open").0;
    journal.begin(&session()).expect("begin");
    journal
}

#[test]
fn recovery_tells_the_story() {
    let dir = TempDir::new();
    let paths = dir.paths();
    let mut journal = open(&paths);
    journal.intend(1, &limit(1), "x", &undo()).expect("intend");
    journal.done(&done(1)).expect("done");
    journal.outcome(1, Outcome::Recovered, 8).expect("outcome");
    journal.intend(2, &limit(2), "x", &undo()).expect("intend");
    assert!(matches!(RecoveryJournal::open(&paths.recovery), Err(JournalError::Busy { .. })));
    let (entries, problems) = read_all(&paths, &layout());
    assert!(problems.is_empty());
    assert_eq!(entries.iter().map(Entry::is_half_done).collect::<Vec<_>>(), [false, true]);
    assert_eq!((entries[0].done, entries[0].outcome), (Some(done(1)), Some(Outcome::Recovered)));
    assert_eq!(entries[1].undo, undo());
    let boot = boot_id().expect("boot");
    assert_eq!(outstanding(&entries, &boot).iter().map(|e| e.request.id).collect::<Vec<_>>(), [2, 1], "last first");
    assert!(outstanding(&entries, "another-boot").is_empty(), "history");
}

#[test]
fn refused_limits_leave_nothing_and_failed_ones_may() {
    let dir = TempDir::new();
    let mut journal = open(&dir.paths());
    for (id, started_ns) in [(1, 0), (2, 5)] {
        journal.intend(id, &limit(id), "x", &undo()).expect("intend");
        journal.done(&Done { id, reason: Some(Reason::TimedOut), started_ns, finished_ns: 6 }).expect("done");
    }
    let (entries, _) = read_all(&dir.paths(), &layout());
    let standing = outstanding(&entries, &boot_id().expect("boot"));
    assert_eq!(standing.iter().map(|entry| entry.request.id).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_torn_tail_is_cut_at_any_byte() {
    let dir = TempDir::new();
    let path = dir.paths().recovery;
    let mut journal = open(&dir.paths());
    journal.intend(1, &limit(1), "x", &undo()).expect("intend");
    let whole = journal.len() as usize;
    journal.done(&done(1)).expect("done");
    drop(journal);
    let bytes = fs::read(&path).expect("read");
    for cut in whole..bytes.len() {
        fs::write(&path, &bytes[..cut]).expect("write");
        let (journal, scan) = RecoveryJournal::open(&path).expect("tolerated");
        assert_eq!((scan.records.len(), scan.torn as usize), (2, cut - whole), "reported");
        assert_eq!(journal.len() as usize, whole, "cut off");
    }
    // Zeros where a power cut left blocks unwritten.
    fs::write(&path, [&bytes[..whole], &[0; 100]].concat()).expect("write");
    let (mut journal, scan) = RecoveryJournal::open(&path).expect("tolerated");
    assert_eq!(scan.torn, 100);
    journal.done(&done(1)).expect("goes on");
    assert_eq!(fs::read(&path).expect("read"), bytes);
}

#[test]
fn damage_in_the_middle_is_left_alone_and_named() {
    let dir = TempDir::new();
    let path = dir.paths().recovery;
    let mut journal = open(&dir.paths());
    let second = journal.len();
    for id in 1..=2 {
        journal.intend(id, &limit(id), "x", &undo()).expect("intend");
    }
    drop(journal);
    let mut bytes = fs::read(&path).expect("read");
    bytes[second as usize + 20] ^= 1;
    fs::write(&path, &bytes).expect("write");
    let error = RecoveryJournal::open(&path).expect_err("damaged");
    assert!(matches!(error, JournalError::Corrupt { record: 1, offset, .. } if offset == second), "{error}");
    assert_eq!(error.reason(), Reason::JournalCorrupt);
    assert_eq!(fs::read(&path).expect("read"), bytes, "as it was");
    let (entries, problems) = read_all(&dir.paths(), &layout());
    assert_eq!((entries.len(), problems.len()), (1, 1), "the rest is still told");
    fs::remove_file(&path).expect("an operator moves it");
    RecoveryJournal::open(&path).expect("and it works again");
}

#[test]
fn a_later_version_is_not_written_to() {
    let dir = TempDir::new();
    let path = dir.paths().recovery;
    let mut journal = RecoveryJournal::open(&path).expect("open").0;
    journal.append(&Record::Session { version: 2, session: session() }).expect("append");
    drop(journal);
    assert!(matches!(RecoveryJournal::open(&path), Err(JournalError::Version { found: 2, .. })));
}

/// A file system of its own in a mount namespace that only this thread sees and that ends with it.
fn on_tiny_disk(kilobytes: u32, test: impl FnOnce(&std::path::Path) + Send + 'static) {
    let run = std::thread::spawn(move || {
        let dir = TempDir::new();
        let none = None::<&str>;
        let private = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
            use nix::mount::{MsFlags, mount};
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            let size = format!("size={kilobytes}k");
            mount(Some("tmpfs"), &dir.0, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
        });
        match private {
            Ok(()) => {
                test(&dir.0);
                let _ = nix::mount::umount2(&dir.0, nix::mount::MntFlags::MNT_DETACH);
            }
            Err(errno) => eprintln!("skipped: mounting needs root: {errno}"),
        }
    });
    run.join().expect("the test on the tiny disk");
}

#[test]
fn a_full_disk_is_no_journal_and_nothing_is_lost() {
    on_tiny_disk(64, |dir| {
        let path = dir.join("recovery.journal");
        let mut journal = RecoveryJournal::open(&path).expect("open").0;
        journal.begin(&session()).expect("begin");
        let mut id = 0;
        let error = loop {
            id += 1;
            match journal.intend(id, &limit(id), "x", &undo()) {
                Ok(()) => journal.done(&done(id)).expect("room for the end was reserved before the action"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, JournalError::Full { .. }), "{error}");
        assert_eq!(error.reason(), Reason::NoJournal);
        let before = journal.len();
        assert_eq!(fs::metadata(&path).expect("file").len(), before, "cut back to the last whole record");
        assert_eq!(RecoveryJournal::scan(&path).expect("scan").records.len() as u64, 2 * (id - 1) + 1);
        // A bigger disk, and it goes on.
        let more = nix::mount::MsFlags::MS_REMOUNT;
        nix::mount::mount(None::<&str>, dir, None::<&str>, more, Some("size=256k")).expect("grow");
        journal.intend(id, &limit(id), "x", &undo()).expect("room again");
    });
}

#[test]
fn a_full_run_is_an_error_and_no_crash() {
    on_tiny_disk(16, |dir| {
        let error = ReflexJournal::create(&dir.join("reflex.journal"), SLOTS, &session()).expect_err("128 KiB");
        assert!(matches!(error, JournalError::Full { .. }), "{error}");
    });
}

#[test]
fn reflex_slots_come_back_as_they_were() {
    let dir = TempDir::new();
    let paths = dir.paths();
    let mut journal = ReflexJournal::create(&paths.reflex, 8, &session()).expect("create");
    let slot = journal.intend(&kill(1)).expect("a slot");
    journal.finish(slot, &done(1));
    journal.outcome(1, Outcome::Failed);
    journal.intend(&freeze(2, 40)).expect("a slot");
    let (entries, problems) = read_all(&paths, &layout());
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(entries[0].request, kill(1).request.clone_with_evidence(&entries[0].request));
    assert_eq!((entries[0].start_ticks, entries[0].done), (9, Some(done(1))));
    assert_eq!(entries[0].outcome, Some(Outcome::Failed));
    assert!(entries[1].is_half_done());
    assert_eq!(entries[0].session, session());
}

/// `request()` stamps the time of its making.
trait SameEvidence {
    fn clone_with_evidence(self, other: &Self) -> Self;
}

impl SameEvidence for crate::model::action::Request {
    fn clone_with_evidence(self, other: &Self) -> Self {
        Self { evidence_ns: other.evidence_ns, ..self }
    }
}

#[test]
fn a_standing_freeze_keeps_its_slot_until_it_is_thawed() {
    let dir = TempDir::new();
    let path = dir.paths().reflex;
    let mut journal = ReflexJournal::create(&path, 3, &session()).expect("create");
    for id in 1..=3 {
        let slot = journal.intend(&freeze(id, id)).expect("a slot");
        journal.finish(slot, &done(id));
    }
    assert_eq!(journal.intend(&kill(4)), None, "no slot, no action");
    journal.thawed(&FreezeUndo { knob: Knob::Freeze, cgroup: 2, was_frozen: false });
    assert!(journal.intend(&kill(4)).is_some());
    assert_eq!(journal.standing(), 2);
    journal.forget(Entity::Cgroup(Tree::Process, 1));
    assert_eq!(journal.standing(), 1);
    let entries = ReflexJournal::read(&path, &layout()).expect("read");
    assert_eq!(entries.iter().map(|entry| entry.request.id).collect::<Vec<_>>(), [1, 3, 4]);
}

#[test]
fn a_later_thaw_ends_a_freeze() {
    if layout().v2_tree().is_none() {
        return eprintln!("skipped: no v2 tree here");
    }
    let dir = TempDir::new();
    let paths = dir.paths();
    let mut journal = ReflexJournal::create(&paths.reflex, 8, &session()).expect("create");
    for id in [1, 2] {
        let slot = journal.intend(&freeze(id, 40 + id)).expect("a slot");
        journal.finish(slot, &done(id));
    }
    let mut thaw = freeze(3, 41);
    thaw.request.verb = Verb::ThawCgroup;
    thaw.freeze = thaw.freeze.map(|freeze| FreezeUndo { was_frozen: true, ..freeze });
    let slot = journal.intend(&thaw).expect("a slot");
    let ids = || {
        let entries = read_all(&paths, &layout()).0;
        let standing = outstanding(&entries, &boot_id().expect("boot"));
        standing.iter().map(|entry| entry.request.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(), [2, 1], "a thaw that was only begun ends nothing");
    journal.finish(slot, &done(3));
    assert_eq!(ids(), [2]);
    assert_eq!(journal.standing(), 1);
}

/// Every order of stores that a SIGKILL can leave: the slot is the old one, empty, an intent, or whole.
#[test]
fn a_slot_is_whole_after_every_single_store() {
    let old = {
        let mut words = slot::encode(1, &kill(1)).expect("a reflex target");
        slot::encode_end(&mut words, &done(1), Some(Outcome::Recovered));
        words
    };
    let new = slot::encode(2, &freeze(2, 40)).expect("a reflex target");
    let mut ended = new;
    slot::encode_end(&mut ended, &done(2), None);
    // The order of `intend` and `finish`.
    let begin = [(0, 0)].into_iter().chain((1..16).map(|at| (at, new[at]))).chain([(0, new[0])]);
    let end = [(0, slot::reopened(&new))].into_iter().chain((13..16).map(|at| (at, ended[at]))).chain([(0, ended[0])]);
    let mut words = old;
    for (at, value) in begin.chain(end) {
        words[at] = value;
        match slot::decode(&words).expect("never damaged") {
            None => assert_ne!(words, new),
            Some(slot) => assert_eq!(
                (slot.seq, slot.intent.request),
                (2, freeze(2, 40).request.clone_with_evidence(&slot.intent.request))
            ),
        }
    }
    assert_eq!(words, ended);
    assert_eq!(slot::decode(&words).expect("whole").and_then(|slot| slot.done), Some(done(2)));
}

#[test]
fn a_flipped_bit_in_a_slot_is_damage() {
    let dir = TempDir::new();
    let path = dir.paths().reflex;
    let mut journal = ReflexJournal::create(&path, 4, &session()).expect("create");
    let slot = journal.intend(&kill(1)).expect("a slot");
    journal.finish(slot, &done(1));
    drop(journal);
    let bytes = fs::read(&path).expect("read");
    for bit in 0..BYTES * 8 {
        let mut damaged = bytes.clone();
        damaged[BYTES + bit / 8] ^= 1 << (bit % 8);
        fs::File::create(&path).and_then(|mut file| file.write_all(&damaged)).expect("write");
        let read = ReflexJournal::read(&path, &layout());
        let told = matches!(&read, Err(JournalError::Corrupt { record: 1, .. }));
        assert!(told, "bit {bit}: {read:?}");
    }
}
