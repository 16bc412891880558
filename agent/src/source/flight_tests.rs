//! A live engine whose inputs go through the flight recorder in; a dump that replays to the same words out.

use faultline_common::{
    event::{Header as FrameHeader, ProcessExit},
    sensor::PROCESS_EXIT,
};

use super::*;
use crate::{
    config::Config,
    decode::Decoder,
    engine::Engine,
    model::{
        action::Decision,
        input::{CgroupName, Fact, Input, TREE_PROCESS},
        output::Output,
    },
    reactor::{self, NoHands},
    source::{
        recorder::{Tee, flight_pair},
        recording::tests::header,
        replay::Replay,
    },
};

const SECOND: u64 = 1_000_000_000;

/// A reactor by hand.
struct Bench {
    tee: Tee,
    buffer: Vec<u8>,
    flight: Flight,
    engine: Engine,
    seq: u64,
    said: Vec<(u64, String)>,
}

impl Bench {
    fn new(dir: &std::path::Path) -> Self {
        let (tee, tail, buffer) = flight_pair().expect("eventfd");
        let config_toml = String::new();
        let shelf = Shelf { dir: dir.to_owned(), keep: 2 };
        let (flight, _) = Flight::new(tail, Header { config_toml, sensors: Vec::new(), ..header() }, shelf);
        Self { tee, buffer, flight, engine: Engine::new(&Config::default()), seq: 0, said: Vec::new() }
    }

    fn step(&mut self, input: &Input) {
        let mut out = Vec::new();
        self.engine.step(input, &mut out);
        self.said.extend(out.iter().map(|output| (self.seq, format!("{output:?}"))));
        self.flight.collect();
    }

    fn fact(&mut self, fact: Fact, at_ns: u64) {
        self.seq += 1;
        self.tee.fact(self.seq, at_ns, &fact);
        self.step(&Input::Fact(fact));
    }

    fn dies(&mut self, comm: u8, at_ns: u64) {
        let record = ProcessExit {
            header: FrameHeader {
                ktime_ns: at_ns,
                cgroup_id: 7,
                missing: 0,
                sensor: PROCESS_EXIT,
                flags: 0,
                cpu: 0,
                len: size_of::<ProcessExit>() as u32,
                pad: 0,
            },
            start_ns: at_ns - 1000,
            parent_cgroup_id: 1,
            pid: self.seq as u32,
            ppid: 1,
            uid: 0,
            exit_code: 9,
            comm: [comm; 16],
        };
        self.seq += 1;
        self.tee.frame(self.seq, at_ns, record.as_bytes());
        let event = Decoder::live().decode(record.as_bytes()).expect("a record");
        self.step(&Input::Event(event));
    }

    fn mark(&mut self, at_ns: u64) {
        let used = self.engine.save(&mut self.buffer).expect("a small engine");
        self.tee.snapshot(self.seq, at_ns, &self.buffer[..used]);
        self.flight.collect();
    }
}

fn replay(path: &std::path::Path) -> Vec<String> {
    let mut source = Replay::open(path).expect("a recording");
    let mut engine = Engine::new(&Config::default());
    engine.load(&source.header().snapshot.clone(), true).expect("a snapshot of this build");
    let mut said = Vec::new();
    reactor::run(&mut source, &Decoder::live(), &mut engine, &mut NoHands, &mut |output, _| {
        said.push(format!("{output:?}"));
    });
    said
}

/// Deaths of three executables, a tick each second, a mark every ten; the names only at the very start.
fn fly(bench: &mut Bench, seconds: u64) -> Vec<u64> {
    let names = [CgroupName { trees: TREE_PROCESS, id: 7, path: "/a.service".into() }];
    bench.fact(Fact::Cgroups(names.into()), 0);
    let mut marks = Vec::new();
    for second in 1..=seconds {
        let now = second * SECOND;
        if second % 10 == 0 {
            marks.push(bench.seq);
            bench.mark(now);
        }
        // Then quiet, so that faults of before the window clear within it.
        if second < 63 {
            bench.dies((second % 3) as u8, now);
            bench.dies((second * second % 5) as u8, now + SECOND / 2);
        }
        bench.fact(Fact::Tick { now_ns: now + SECOND / 2 }, now + SECOND / 2);
    }
    marks
}

#[test]
fn a_dump_replays_to_what_the_live_engine_said() {
    let dir = std::env::temp_dir().join(format!("faultline-flight-{}", std::process::id()));
    let mut bench = Bench::new(&dir);
    let marks = fly(&mut bench, 95);
    let path = bench.flight.write(3).expect("a writable directory").expect("a snapshot");
    let said = replay(&path);
    std::fs::remove_dir_all(&dir).expect("clean up");
    let start = marks[marks.len() - SEGMENTS];
    let live: Vec<String> = bench.said.iter().filter(|(seq, _)| *seq > start).map(|(_, text)| text.clone()).collect();
    assert!(said[0].contains("/a.service"), "the names come first: {}", said[0]);
    assert_eq!(said[1..], live[..]);
    assert!(live.iter().any(|text| text.starts_with("Fault")), "faults of before the window live on in it");
}

#[test]
fn a_dump_can_be_judged_under_another_policy() {
    let dir = std::env::temp_dir().join(format!("faultline-flight-policy-{}", std::process::id()));
    let mut bench = Bench::new(&dir);
    // Both are told long before the window.
    bench.fact(Fact::Own(["/system.slice/faultline.service".to_owned()].into()), 0);
    bench.fact(Fact::Cgroups([CgroupName { trees: TREE_PROCESS, id: 1, path: "/init.scope".into() }].into()), 0);
    fly(&mut bench, 95);
    let path = bench.flight.write(3).expect("a writable directory").expect("a snapshot");
    let text =
        "[scope]\nunits = [\"a.service\"]\n[[plan]]\non = \"crash_loop\"\nsteps = [{ verb = \"restart-unit\" }]\n";
    let config = Config::parse(text, "new.toml").expect("a valid policy");
    let mut source = Replay::open(&path).expect("a recording");
    source.for_another_policy();
    let mut engine = Engine::new(&config);
    engine.load(&source.header().snapshot.clone(), false).expect("a snapshot of this build");
    let mut decided = Vec::new();
    reactor::run(&mut source, &Decoder::live(), &mut engine, &mut NoHands, &mut |output, _| {
        decided.extend(if let Output::Action(action) = output { Some(action.decision) } else { None });
    });
    std::fs::remove_dir_all(&dir).expect("clean up");
    assert!(decided.contains(&Decision::DryRun), "it knows the unit, and that it may be touched: {decided:?}");
}

#[test]
fn old_dumps_give_way_and_other_files_stay() {
    let dir = std::env::temp_dir().join(format!("faultline-shelf-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    for name in ["20260101T000000000Z-f1.flt", "20260102T000000000Z-f2.flt", "20260103T000000000Z-f3.flt", "mine.flt"] {
        std::fs::write(dir.join(name), "").expect("a file");
    }
    Shelf { dir: dir.clone(), keep: 2 }.tidy();
    let mut left: Vec<_> = std::fs::read_dir(&dir).expect("a directory").flatten().map(|e| e.file_name()).collect();
    left.sort();
    std::fs::remove_dir_all(&dir).expect("clean up");
    assert_eq!(left, ["20260102T000000000Z-f2.flt", "20260103T000000000Z-f3.flt", "mine.flt"]);
}

#[test]
fn a_flood_shortens_the_window_and_never_breaks_it() {
    let dir = std::env::temp_dir().join(format!("faultline-flood-{}", std::process::id()));
    let mut bench = Bench::new(&dir);
    bench.mark(1);
    let mut noise = 1u64;
    let mut frame = [0u8; 512];
    for _ in 0..40_000 {
        frame.fill_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 56) as u8
        });
        bench.seq += 1;
        bench.tee.frame(bench.seq, 2, &frame);
        bench.flight.collect();
    }
    assert!(bench.flight.segments.iter().map(Segment::bytes).sum::<usize>() <= WINDOW_BYTES);
    assert!(bench.flight.write(1).expect("no error").is_none(), "nothing to start from until the next snapshot");
    bench.mark(3);
    assert!(bench.flight.write(1).expect("a writable directory").is_some());
    std::fs::remove_dir_all(&dir).expect("clean up");
}
