//! The engine as a specification: inputs in, faults out, without a kernel.

use faultline_common::{
    event::{BlockIo, Header, OomKill, ProcessExit, TcpRetransmit},
    sensor::SENSORS,
};

mod actions;
mod network;

use super::*;
use crate::model::{
    entity::{Entity, unit_key},
    fault::{Fault, State},
    input::{CgroupName, CounterReading, DiskReading, TREE_PROCESS},
    output::LossReason,
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

struct Bench {
    engine: Engine,
    outputs: Vec<Output>,
}

impl Bench {
    fn new() -> Self {
        Self::with(&Config::default())
    }

    fn with(config: &Config) -> Self {
        Self { engine: Engine::new(config), outputs: Vec::new() }
    }

    fn step(&mut self, input: Input) -> &mut Self {
        self.engine.step(&input, &mut self.outputs);
        self
    }

    fn faults(&self) -> Vec<Fault> {
        self.outputs.iter().filter_map(|o| if let Output::Fault(f) = o { Some(*f) } else { None }).collect()
    }

    fn opened(&self) -> Vec<(Kind, Entity)> {
        self.faults().iter().filter(|f| f.state == State::Open).map(|f| (f.kind, f.entity)).collect()
    }

    fn tick(&mut self, now_ns: u64) -> &mut Self {
        self.step(Input::Fact(Fact::Tick { now_ns }))
    }
}

fn header(sensor: u16, ktime_ns: u64) -> Header {
    Header { ktime_ns, cgroup_id: 0, missing: 0, sensor, flags: 0, cpu: 0, len: 0, pad: 0 }
}

fn comm(name: &str) -> [u8; 16] {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

/// A death of `name` at `at_ns`, started `lifetime_ns` before.
fn exit(name: &str, code: u32, at_ns: u64, lifetime_ns: u64) -> ProcessExit {
    ProcessExit {
        header: header(PROCESS_EXIT, at_ns),
        start_ns: at_ns - lifetime_ns,
        parent_cgroup_id: 1,
        pid: 1000 + (at_ns / MS) as u32,
        ppid: 1,
        uid: 0,
        exit_code: code,
        comm: comm(name),
    }
}

fn died(e: ProcessExit) -> Input {
    Input::Event(Event::ProcessExit(e))
}

const SIGSEGV: u32 = 11;
const SIGKILL: u32 = 9;
const STATUS_1: u32 = 1 << 8;

#[test]
fn a_core_dumping_signal_is_a_crash_at_once() {
    let mut bench = Bench::new();
    bench.step(died(exit("app", SIGSEGV, SECOND, MS)));
    assert_eq!(bench.opened(), [(Kind::ProcessCrash, Entity::Executable(comm("app")))]);
    assert_eq!(bench.faults()[0].cause_ns, Some(SECOND));
}

#[test]
fn stops_that_were_asked_for_are_never_faults() {
    let mut bench = Bench::new();
    for (n, code) in [1, 2, 13, 15, 143 << 8, 130 << 8].into_iter().cycle().take(600).enumerate() {
        bench.step(died(exit("app", code, SECOND + n as u64 * 10 * MS, MS)));
    }
    assert_eq!(bench.opened(), []);
}

#[test]
fn ten_thousand_false_are_no_fault() {
    let mut bench = Bench::new();
    for n in 0..10_000 {
        bench.step(died(exit("false", STATUS_1, SECOND + n * 2 * MS, MS)));
    }
    assert_eq!(bench.opened(), []);
}

#[test]
fn three_deaths_each_after_a_new_start_are_a_loop() {
    let mut bench = Bench::new();
    for n in 1..=2 {
        bench.step(died(exit("app", SIGKILL, n * SECOND, MS)));
        assert_eq!(bench.opened(), []);
    }
    bench.step(died(exit("app", SIGKILL, 3 * SECOND, MS)));
    assert_eq!(bench.opened(), [(Kind::CrashLoop, Entity::Executable(comm("app")))]);
}

#[test]
fn workers_killed_together_are_no_loop() {
    let mut bench = Bench::new();
    for n in 0..20 {
        bench.step(died(exit("worker", SIGKILL, 100 * SECOND + n * MS, 50 * SECOND)));
    }
    assert_eq!(bench.opened(), []);
}

#[test]
fn deaths_far_apart_are_no_loop() {
    let mut bench = Bench::new();
    for n in 1..=5 {
        bench.step(died(exit("app", SIGKILL, n * 100 * SECOND, MS)));
    }
    assert_eq!(bench.opened(), []);
}

/// The names of the service manager's cgroup (1) and of a service (7).
fn web_service() -> Input {
    let name = |id, path: &str| CgroupName { trees: TREE_PROCESS, id, path: path.into() };
    Input::Fact(Fact::Cgroups([name(1, "/init.scope"), name(7, "/system.slice/web.service")].into()))
}

#[test]
fn the_main_process_of_a_watched_unit_must_not_fail() {
    let mut config = Config::default();
    config.watch.units = vec!["web.service".into()];
    let mut bench = Bench::with(&config);
    bench.step(web_service());
    let mut main = exit("web", STATUS_1, SECOND, MS);
    main.header.cgroup_id = 7;
    let mut child = main;
    child.parent_cgroup_id = 7;
    bench.step(died(child));
    assert_eq!(bench.opened(), [], "a child's status is the service's own business");
    bench.step(died(main));
    assert_eq!(bench.opened(), [(Kind::ProcessCrash, Entity::Unit(unit_key("web.service")))]);
}

#[test]
fn an_unwatched_unit_that_keeps_failing_is_a_loop() {
    let mut bench = Bench::new();
    bench.step(web_service());
    for n in 1..=3 {
        let mut main = exit("web", STATUS_1, n * SECOND, MS);
        main.header.cgroup_id = 7;
        bench.step(died(main));
    }
    assert_eq!(bench.opened(), [(Kind::CrashLoop, Entity::Unit(unit_key("web.service")))]);
}

fn oom(victim: u32, cgroup: u64, at_ns: u64) -> Input {
    let mut header = header(OOM_KILL, at_ns);
    header.cgroup_id = cgroup;
    Input::Event(Event::OomKill(OomKill {
        header,
        anon_kb: 1000,
        file_kb: 0,
        shmem_kb: 0,
        total_vm_kb: 2000,
        victim_pid: victim,
        trigger_pid: 5,
        uid: 0,
        reserved: 0,
        victim_comm: comm("hog"),
        trigger_comm: comm("other"),
    }))
}

#[test]
fn victims_that_die_before_they_are_marked_are_no_crash_loop() {
    let mut bench = Bench::new();
    for n in 1..=4 {
        let mut death = exit("hog", SIGKILL, n * SECOND, MS);
        death.pid = 40 + n as u32;
        bench.step(died(death)).step(oom(death.pid, 9, n * SECOND + 10));
    }
    assert_eq!(bench.opened(), [(Kind::OomKill, Entity::Cgroup(Tree::Memory, 9))]);
}

#[test]
fn an_oom_victims_exit_is_evidence_not_a_second_fault() {
    let mut bench = Bench::new();
    let mut death = exit("hog", SIGKILL, 2 * SECOND, SECOND);
    death.pid = 42;
    bench.step(oom(42, 9, SECOND)).step(died(death));
    assert_eq!(bench.opened(), [(Kind::OomKill, Entity::Cgroup(Tree::Memory, 9))]);
    bench.tick(100 * SECOND);
    let cleared = bench.faults()[1];
    assert!(cleared.evidence.facts().iter().any(|f| f.0 == "victim_exited"));
}

#[test]
fn a_recycled_pid_is_not_the_victim() {
    let mut bench = Bench::new();
    let mut crash = exit("other", SIGSEGV, 200 * SECOND, SECOND);
    crash.pid = 42;
    bench.step(oom(42, 9, SECOND)).step(died(crash));
    assert_eq!(bench.opened().len(), 2);
}

fn io(latency_ns: u64, error: i32, at_ns: u64) -> Input {
    Input::Event(Event::BlockIo(BlockIo {
        header: header(BLOCK_IO, at_ns),
        latency_ns,
        sector: 8,
        dev: 7 << 20,
        bytes: 4096,
        error,
        op: 0,
    }))
}

#[test]
fn a_burst_of_slow_ios_is_disk_latency_once() {
    let mut bench = Bench::new();
    for n in 0..7 {
        bench.step(io(100 * MS, 0, SECOND + n * 100 * MS));
    }
    assert_eq!(bench.opened(), []);
    for n in 7..30 {
        bench.step(io(100 * MS, 0, SECOND + n * 100 * MS));
    }
    assert_eq!(bench.opened(), [(Kind::DiskLatency, Entity::Device(7 << 20))]);
}

#[test]
fn slow_ios_far_apart_are_no_burst() {
    let mut bench = Bench::new();
    for n in 0..100 {
        bench.step(io(100 * MS, 0, SECOND + n * 2 * SECOND));
    }
    assert_eq!(bench.opened(), []);
}

#[test]
fn an_io_error_is_a_fault_at_once_and_a_benign_one_is_not() {
    let mut bench = Bench::new();
    bench.step(io(MS, -libc::EOPNOTSUPP, SECOND)).step(io(MS, -libc::EAGAIN, SECOND));
    assert_eq!(bench.opened(), []);
    bench.step(io(MS, -libc::EIO, SECOND));
    assert_eq!(bench.opened(), [(Kind::DiskError, Entity::Device(7 << 20))]);
}

fn reading(second: u64, p99_ns: u64) -> Input {
    let now_ns = second * SECOND;
    Input::Fact(Fact::Disk(DiskReading { now_ns, dev: 1, op_class: 0, count: 100, p50_ns: MS, p99_ns }))
}

#[test]
fn p99_far_above_its_own_baseline_is_disk_latency() {
    let mut bench = Bench::new();
    for second in 0..60 {
        bench.step(reading(second, 6 * MS));
    }
    bench.step(reading(60, 50 * MS)).step(reading(61, 50 * MS));
    assert_eq!(bench.opened(), [], "two bad seconds are a blip");
    bench.step(reading(62, 50 * MS));
    assert_eq!(bench.opened(), [(Kind::DiskLatency, Entity::Device(1))]);
}

#[test]
fn a_disk_that_was_always_slow_is_not_slow() {
    let mut bench = Bench::new();
    for second in 0..200 {
        bench.step(reading(second, 60 * MS + second % 7 * MS));
    }
    assert_eq!(bench.opened(), []);
}

#[test]
fn a_fast_disk_below_the_floor_is_not_slow() {
    let mut bench = Bench::new();
    for second in 0..60 {
        bench.step(reading(second, MS / 10));
    }
    for second in 60..70 {
        bench.step(reading(second, 10 * MS));
    }
    assert_eq!(bench.opened(), []);
}

fn retransmit(n: u32, segs_out: u32, at_ns: u64) -> Input {
    let mut daddr = [0; 16];
    daddr[..4].copy_from_slice(&[10, 0, 0, 2]);
    Input::Event(Event::TcpRetransmit(TcpRetransmit {
        header: header(TCP_RETRANSMIT, at_ns),
        sock: 1,
        saddr: [0; 16],
        daddr,
        segs_out,
        total_retrans: n,
        netns: 1,
        family: 2,
        state: 1,
        sport: 1,
        dport: 2,
        reserved: 0,
    }))
}

#[test]
fn many_retransmits_of_a_noticeable_share_are_a_storm() {
    let mut bench = Bench::new();
    for n in 0..100 {
        bench.step(retransmit(n, n * 10, SECOND + u64::from(n) * 10 * MS));
    }
    assert_eq!(bench.opened().len(), 1);
    assert_eq!(bench.opened()[0].0, Kind::RetransmitStorm);
}

#[test]
fn a_handful_is_never_a_storm() {
    let mut bench = Bench::new();
    for n in 0..600u32 {
        bench.step(retransmit(n, n * 10, SECOND + u64::from(n) * SECOND / 3));
        bench.tick(SECOND + u64::from(n) * SECOND / 3);
    }
    assert_eq!(bench.opened(), [], "15 in five seconds, for minutes");
}

#[test]
fn many_retransmits_of_a_fast_flow_are_no_storm() {
    let mut bench = Bench::new();
    for n in 0..200 {
        bench.step(retransmit(n, n * 1000, SECOND + u64::from(n) * 10 * MS));
    }
    assert_eq!(bench.opened(), [], "one in a thousand segments");
}

#[test]
fn a_storm_clears_and_closes_when_it_is_over() {
    let mut bench = Bench::new();
    for n in 0..100 {
        bench.step(retransmit(n, n * 10, SECOND + u64::from(n) * 10 * MS));
    }
    for quarter in 8..400 {
        bench.tick(quarter * 250 * MS);
    }
    let states: Vec<_> = bench.faults().iter().map(|f| f.state).collect();
    assert_eq!(states, [State::Open, State::Clearing, State::Closed]);
    assert_eq!(bench.engine.alive(), 0);
}

#[test]
fn lost_events_are_said_and_lower_the_confidence() {
    let mut bench = Bench::new();
    let mut sums = [[0; 8]; SENSORS];
    sums[usize::from(PROCESS_EXIT)][faultline_common::counter::RING_FULL] = 5;
    let counters = CounterReading { now_ns: SECOND, sums, missed: [None; SENSORS] };
    bench.step(Input::Fact(Fact::Counters(counters))).step(Input::Fact(Fact::Counters(counters)));
    let losses: Vec<_> = bench
        .outputs
        .iter()
        .filter_map(|o| if let Output::Loss(l) = o { Some((l.count, l.reason)) } else { None })
        .collect();
    assert_eq!(losses, [(5, LossReason::RingFull)], "the same counters again are no new loss");
    bench.step(died(exit("app", SIGSEGV, 2 * SECOND, MS)));
    assert_eq!(bench.faults()[0].confidence, 800);
}

#[test]
fn time_never_runs_backwards() {
    let mut bench = Bench::new();
    bench.tick(10 * SECOND).step(died(exit("app", SIGSEGV, SECOND, MS)));
    assert_eq!(bench.engine.now_ns(), 10 * SECOND);
}
