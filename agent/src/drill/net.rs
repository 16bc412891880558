//! The drill `net`. In: nothing; out: a TCP transfer between two own network namespaces that loses a share of its packets.
//!
//! Two helper processes each live in an unnamed network namespace, joined by a veth pair; an XDP program at the receiver drops
//! TCP packets (not address resolution). The connection is made before the first drop, so that no lost handshake makes the
//! drill wait, and one packet is one segment, so that each drop costs one retransmit. Loss has to be at the *receiver's* end: a
//! drop on the sender's output is seen by TCP as local congestion and causes hardly any retransmit. Sockets are closed by
//! reset: one that lingers would keep its namespace alive.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};

use super::helper::{Helper, Word, hear, say, take_name};
use super::netlink::Route;
use super::stage::{SECOND, Stage, is_readable};
use super::verdict::Expected;
use super::{DrillError, Performance};
use crate::clock::monotonic_ns;

/// Helper that owns the pair, drops and receives.
pub const RECEIVER_ROLE: &str = "net-receiver";
/// Helper that sends.
pub const SENDER_ROLE: &str = "net-sender";
/// The XDP program in the eBPF object.
pub const DROP_PROGRAM: &str = "drill_drop";

const DROP_GLOBAL: &str = "DRILL_DROP_PERMILLE";
/// Share of TCP packets that is lost.
const DROP_PERMILLE: u32 = 100;

const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 1);
const SENDER: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 2);
const PORT: u16 = 5203;
const RECEIVER_DEVICE: &str = "fl-drill-in";
const SENDER_DEVICE: &str = "fl-drill-out";

/// The sender stops after this many bytes or nanoseconds, whichever comes first.
const SEND_BYTES: usize = 8 << 20;
const SEND_NS: u64 = 10 * SECOND;

/// The drill `net`.
pub fn perform(stage: &mut Stage) -> Result<Performance, DrillError> {
    let mut helper = Helper::start(RECEIVER_ROLE, &[])?;
    let entity_name = stage.ready(&mut helper)?;
    helper.order("go")?;
    let injected_ns = stage.injected(&mut helper)?;
    let expected = Expected { kind: "retransmit_storm", entity_kind: "peer", entity_name, victim_pid: None };
    stage.wait_for_fault(&expected)?;
    stage.dismiss(&mut helper)?;
    Ok(Performance { expected, injected_ns, healing: None })
}

/// Child side, receiver: builds everything, drops, receives, and takes everything down.
pub fn help_receiver() -> Result<(), DrillError> {
    take_name("fl-drill-recv")?;
    enter_own_namespace()?;
    let mut dropper = load_dropper()?;
    let mut sender = Helper::start(SENDER_ROLE, &[])?;
    expect_ready(&mut sender)?;
    let route = Route::open()?;
    route.add_veth(RECEIVER_DEVICE, SENDER_DEVICE, sender.pid().as_raw().cast_unsigned())?;
    route.bring_up(RECEIVER_DEVICE, RECEIVER)?;
    let connection = meet(&mut sender)?;
    say(&Word::Ready(RECEIVER.to_string()))?;
    if hear()? {
        attach(&mut dropper)?;
        say(&Word::Injected(monotonic_ns()))?;
        sender.order("send")?;
        receive(connection)?;
    }
    sender.dismiss();
    sender.reap().map(drop)
}

/// Child side, sender: sets its end up, connects, and sends until told to stop.
pub fn help_sender() -> Result<(), DrillError> {
    take_name("fl-drill-send")?;
    enter_own_namespace()?;
    say(&Word::Ready(String::new()))?;
    if !hear()? {
        return Ok(());
    }
    Route::open()?.bring_up(SENDER_DEVICE, SENDER)?;
    let connection = TcpStream::connect(SocketAddrV4::new(RECEIVER, PORT));
    let connection = connection.map_err(DrillError::system("connect to", RECEIVER.to_string()))?;
    close_by_reset(&connection)?;
    say(&Word::Ready(String::new()))?;
    if hear()? { transmit(connection) } else { Ok(()) }
}

/// Listens, lets the sender connect, and takes the connection.
fn meet(sender: &mut Helper) -> Result<TcpStream, DrillError> {
    let wrong = |operation| DrillError::system(operation, RECEIVER.to_string());
    let listener = TcpListener::bind(SocketAddrV4::new(RECEIVER, PORT)).map_err(wrong("listen on"))?;
    sender.order("connect")?;
    expect_ready(sender)?;
    let (connection, _) = listener.accept().map_err(wrong("accept on"))?;
    close_by_reset(&connection)?;
    Ok(connection)
}

/// Waits for a `ready` of the sender, as long as that lives.
fn expect_ready(sender: &mut Helper) -> Result<(), DrillError> {
    let role = sender.role;
    loop {
        let line = sender.lines().next().map_err(DrillError::system("read from the helper", role))?;
        match line.map(|line| super::helper::parse(role, &line)) {
            Some(Ok(Word::Ready(_))) => return Ok(()),
            Some(Ok(other)) => return Err(DrillError::Protocol { role, said: format!("{other:?}"), wanted: "ready" }),
            Some(Err(error)) => return Err(error),
            None if sender.lines().ended() => {
                return Err(DrillError::Helper { role, message: "it ended without a word".into() });
            }
            None => super::stage::poll_readable(&[sender.lines().as_fd()], u64::MAX).map(drop)?,
        }
    }
}

/// Reads and throws away until the sender is done or the drill says stop (by closing standard input).
fn receive(mut connection: TcpStream) -> Result<(), DrillError> {
    let wrong = |error: io::Error| DrillError::system("receive on", RECEIVER.to_string())(error);
    connection.set_nonblocking(true).map_err(wrong)?;
    let mut room = vec![0_u8; 64 * 1024];
    let stdin = io::stdin();
    loop {
        super::stage::poll_readable(&[connection.as_fd(), stdin.as_fd()], u64::MAX)?;
        if is_readable(stdin.as_fd())? {
            return Ok(());
        }
        match connection.read(&mut room) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(wrong(error)),
        }
    }
}

/// Sends [`SEND_BYTES`] within [`SEND_NS`], or less when told to stop.
fn transmit(mut connection: TcpStream) -> Result<(), DrillError> {
    let wrong = |error: io::Error| DrillError::system("send to", RECEIVER.to_string())(error);
    connection.set_nonblocking(true).map_err(wrong)?;
    let deadline = monotonic_ns() + SEND_NS;
    let (chunk, mut sent) = (vec![0_u8; 64 * 1024], 0);
    let stdin = io::stdin();
    while sent < SEND_BYTES && monotonic_ns() < deadline {
        match connection.write(&chunk) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                return Ok(());
            }
            Err(error) => return Err(wrong(error)),
        }
        let mut set =
            [PollFd::new(connection.as_fd(), PollFlags::POLLOUT), PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        poll(&mut set, PollTimeout::from(100_u8)).map_err(DrillError::system("poll", "the connection"))?;
        if set[1].any().unwrap_or(false) {
            return Ok(());
        }
    }
    Ok(())
}

fn enter_own_namespace() -> Result<(), DrillError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| DrillError::unavailable(format!("the kernel refuses a network namespace: {errno}")))
}

fn close_by_reset(connection: &TcpStream) -> Result<(), DrillError> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(connection, sockopt::Linger, &at_once).map_err(DrillError::system("set up", "the connection"))
}

/// Loads the dropper alone; the maps of the object come with it and go with this process.
fn load_dropper() -> Result<Ebpf, DrillError> {
    // Kernels before 5.11 charge BPF memory to this limit; later ones ignore it, so a refusal does not matter.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let mut loader = EbpfLoader::new();
    let loaded = loader.override_global(DROP_GLOBAL, &DROP_PERMILLE, true).load(crate::sensor::OBJECT_BYTES);
    let mut dropper = loaded.map_err(dropper_error("read"))?;
    program(&mut dropper)?.load().map_err(dropper_error("load"))?;
    Ok(dropper)
}

/// Generic mode: every kernel has it for every device, and one share of drops is the same in each.
fn attach(dropper: &mut Ebpf) -> Result<(), DrillError> {
    let attached = program(dropper)?.attach(RECEIVER_DEVICE, XdpMode::Skb);
    attached.map(drop).map_err(dropper_error("attach"))
}

fn program(dropper: &mut Ebpf) -> Result<&mut Xdp, DrillError> {
    let program = dropper.program_mut(DROP_PROGRAM).ok_or(DrillError::NoDropper)?;
    program.try_into().map_err(dropper_error("use"))
}

fn dropper_error<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    operation: &'static str,
) -> impl FnOnce(E) -> DrillError {
    move |source| DrillError::Dropper { operation, source: source.into() }
}
