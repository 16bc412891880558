//! Hung tasks, failed connects, resets and dropped packets: records in, faults out.

use faultline_common::{
    event::{FLAG_GIVEN_UP, PacketDrop, TaskHang, TcpConnect, TcpReset},
    sensor::{PACKET_DROP, TASK_HANG, TCP_CONNECT, TCP_RESET},
};

use super::*;
use crate::model::{
    fault::{Class, Severity},
    input::DropReason,
};

const ESTABLISHED: u16 = 1;
const SYN_SENT: u16 = 2;
const LAST_ACK: u16 = 9;
const REFUSED: i32 = libc::ECONNREFUSED;
const TIMED_OUT: i32 = libc::ETIMEDOUT;

fn address(last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 0, 0, last]);
    address
}

fn peer(last: u8) -> Entity {
    Entity::Peer { address: address(last), v6: false }
}

fn connect(to: u8, error: i32, state: u16, at_ns: u64) -> Input {
    Input::Event(Event::TcpConnect(TcpConnect {
        header: header(TCP_CONNECT, at_ns),
        sock: 1,
        latency_ns: MS,
        saddr: [0; 16],
        daddr: address(to),
        netns: 1,
        error: error as u32,
        family: 2,
        state,
        sport: 1,
        dport: 80,
    }))
}

#[test]
fn a_few_failed_connects_to_one_peer_are_a_fault_and_the_errno_tells_which() {
    for (error, class, severity) in [
        (REFUSED, Class::ServiceUnavailability, Severity::Warning),
        (TIMED_OUT, Class::NetworkPartition, Severity::Error),
    ] {
        let mut bench = Bench::new();
        for n in 0..4 {
            bench.step(connect(1, error, SYN_SENT, SECOND + n * SECOND));
        }
        assert_eq!(bench.opened(), []);
        bench.step(connect(1, error, SYN_SENT, 6 * SECOND));
        assert_eq!(bench.opened(), [(Kind::ConnectFailure, peer(1))]);
        assert_eq!((bench.faults()[0].class, bench.faults()[0].severity), (class, severity));
    }
}

#[test]
fn slow_connects_and_failures_of_many_peers_or_long_ago_are_none() {
    let mut bench = Bench::new();
    for n in 0..40 {
        bench.step(connect(1, 0, SYN_SENT, SECOND + n * MS));
        bench.step(connect(n as u8 + 10, REFUSED, SYN_SENT, SECOND + n * MS));
        bench.step(connect(2, REFUSED, SYN_SENT, SECOND + n * 10 * SECOND));
    }
    assert_eq!(bench.opened(), []);
}

#[test]
fn a_connect_that_was_given_up_counts_and_each_namespace_has_its_own_peers() {
    let with = |netns: u32, flags: u16, family: u16, daddr: [u8; 16], at_ns: u64| {
        let Input::Event(Event::TcpConnect(mut e)) = connect(1, 0, SYN_SENT, at_ns) else { unreachable!() };
        (e.netns, e.header.flags, e.family, e.daddr) = (netns, flags, family, daddr);
        Input::Event(Event::TcpConnect(e))
    };
    let mut bench = Bench::new();
    for n in 0..20 {
        bench.step(with(n, FLAG_GIVEN_UP, 2, address(1), SECOND + u64::from(n)));
    }
    assert_eq!(bench.opened(), [], "twenty pods, one failure each");
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    for n in 0..5 {
        bench.step(with(99, FLAG_GIVEN_UP, 10, mapped, 2 * SECOND + n));
    }
    assert_eq!(bench.opened(), [(Kind::ConnectFailure, peer(1))], "a v4 address in a v6 socket is the same peer");
}

#[test]
fn localhost_without_ipv6_is_no_failure() {
    let mut bench = Bench::new();
    for n in 0..20 {
        let Input::Event(Event::TcpConnect(mut e)) = connect(1, REFUSED, SYN_SENT, SECOND + n) else { unreachable!() };
        (e.family, e.daddr) = (10, std::net::Ipv6Addr::LOCALHOST.octets());
        bench.step(Input::Event(Event::TcpConnect(e)));
    }
    assert_eq!(bench.opened(), []);
}

#[test]
fn connections_that_time_out_count_too() {
    let mut bench = Bench::new();
    for n in 0..5 {
        bench.step(connect(1, TIMED_OUT, ESTABLISHED, SECOND + n * SECOND));
    }
    assert_eq!(bench.opened(), [(Kind::ConnectFailure, peer(1))]);
}

fn reset(from: u8, sent: u32, state: u16, at_ns: u64) -> Input {
    Input::Event(Event::TcpReset(TcpReset {
        header: header(TCP_RESET, at_ns),
        sock: 1,
        saddr: [0; 16],
        daddr: address(from),
        netns: 1,
        sent,
        family: 2,
        state,
        sport: 1,
        dport: 80,
    }))
}

#[test]
fn only_resets_by_the_peer_of_what_stood_are_counted() {
    let mut bench = Bench::new();
    for n in 0..100 {
        bench.step(reset(1, 1, ESTABLISHED, SECOND + n * MS)).step(reset(2, 0, SYN_SENT, SECOND + n * MS));
        bench.step(reset(2, 0, LAST_ACK, SECOND + n * MS));
    }
    assert_eq!(bench.opened(), []);
    for n in 0..10 {
        bench.step(reset(3, 0, ESTABLISHED, SECOND + n * MS));
    }
    assert_eq!(bench.opened(), [(Kind::ConnectionReset, peer(3))]);
}

fn drop(from: u8, reason: u32, at_ns: u64) -> Input {
    Input::Event(Event::PacketDrop(PacketDrop {
        header: header(PACKET_DROP, at_ns),
        location: 0,
        saddr: address(from),
        daddr: [0; 16],
        reason,
        ifindex: 1,
        bytes: 60,
        family: 2,
        protocol: 6,
        sport: 1,
        dport: 80,
        skipped: 0,
    }))
}

#[test]
fn wrong_checksums_are_known_by_the_running_kernels_names() {
    let reasons = [(5, "tcp_csum"), (6, "no_socket")];
    let names: Vec<_> = reasons.map(|(number, name)| DropReason { number, name: name.into() }).into();
    let mut bench = Bench::new();
    for n in 0..20 {
        bench.step(drop(1, 5, SECOND + n * MS));
    }
    assert_eq!(bench.opened(), [], "numbers mean nothing without names");
    bench.step(Input::Fact(Fact::DropReasons(names.into())));
    for n in 0..5 {
        bench.step(drop(1, 6, 2 * SECOND + n * MS)).step(drop(2, 5, 2 * SECOND + n * MS));
    }
    assert_eq!(bench.opened(), [(Kind::BadChecksum, peer(2))]);
}

fn hang(cgroup: u64, at_ns: u64) -> Input {
    let mut header = header(TASK_HANG, at_ns);
    header.cgroup_id = cgroup;
    Input::Event(Event::TaskHang(TaskHang {
        header,
        start_ns: 1,
        pid: 9,
        tgid: 9,
        uid: 0,
        reserved: 0,
        comm: comm("dd"),
    }))
}

#[test]
fn a_task_hangs_once_and_until_the_kernel_stops_saying_so() {
    let mut bench = Bench::new();
    bench.step(hang(7, SECOND)).step(hang(1, SECOND));
    bench.tick(100 * SECOND).step(hang(7, 121 * SECOND)).step(hang(1, 121 * SECOND));
    let both = [(Kind::TaskHang, Entity::Cgroup(Tree::Process, 7)), (Kind::TaskHang, Entity::Process(9))];
    assert_eq!(bench.opened(), both, "two minutes between two checks of the kernel are no end");
    bench.tick(272 * SECOND);
    assert_eq!(bench.faults().iter().filter(|f| f.state == State::Clearing).count(), 2);
    let mut patient = Bench::new();
    patient.step(Input::Fact(Fact::HangCheck { every_ns: 600 * SECOND }));
    patient.step(hang(7, SECOND)).tick(700 * SECOND).step(hang(7, 701 * SECOND));
    assert_eq!(patient.faults().len(), 1, "ten minutes between two checks are no end, either");
}
