//! `refused`, `reset` and `nowhere`. In: network namespaces of our own, with `ip` and veth for the last. Out: connects that
//! nobody answers or that are answered by "no", and connections that their other end throws away.
//!
//! Each has a peer address of its own, so that each is a fault of its own.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::socket::{setsockopt, sockopt},
};
use serde_json::json;

use super::{Injector, crash::object, tool};
use crate::{private, truth::Expected};

/// As `detect.connect_failure.count` and `detect.connection_reset.count` want it by default, and no more.
const FAILURES: usize = 5;
const RESETS: usize = 10;
/// A port on which nobody listens.
const CLOSED: u16 = 9;

/// Connects to a port on which nobody listens.
#[derive(Debug)]
pub struct Refused;

impl Injector for Refused {
    fn name(&self) -> &'static str {
        "refused"
    }

    fn sensor(&self) -> &'static str {
        "tcp_connect"
    }

    fn inject(&mut self, _: &[String]) -> Result<Expected> {
        const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
        let earliest_ns = private::on_own_thread(|| {
            own_loopback()?;
            let begin = monotonic_ns();
            fail(PEER, libc::ECONNREFUSED)?;
            Ok(begin)
        })?;
        Ok(failed(PEER, libc::ECONNREFUSED, earliest_ns))
    }
}

/// Connects to an address where nobody is: the neighbour is known, so the segments go out, and nobody answers.
#[derive(Debug)]
pub struct Nowhere;

impl Nowhere {
    /// Loads the module.
    ///
    /// # Errors
    /// There is none.
    pub fn prepare() -> Result<Self> {
        tool(&["modprobe", "veth"])?;
        Ok(Self)
    }
}

impl Injector for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }

    fn sensor(&self) -> &'static str {
        "tcp_connect"
    }

    fn inject(&mut self, _: &[String]) -> Result<Expected> {
        const PEER: Ipv4Addr = Ipv4Addr::new(10, 205, 0, 9);
        let earliest_ns = private::on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            tool(&["ip", "link", "add", "fl-n", "type", "veth", "peer", "name", "fl-m"])?;
            tool(&["ip", "address", "add", "10.205.0.1/24", "dev", "fl-n"])?;
            tool(&["ip", "link", "set", "fl-m", "up"])?;
            tool(&["ip", "link", "set", "fl-n", "up"])?;
            let peer = PEER.to_string();
            tool(&["ip", "neighbour", "add", &peer, "lladdr", "02:00:00:00:00:09", "dev", "fl-n", "nud", "permanent"])?;
            // Of this namespace: one more SYN, then it is over after three seconds.
            fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").context("tcp_syn_retries")?;
            let begin = monotonic_ns();
            let all: Vec<_> = (0..FAILURES).map(|_| here(move || one(PEER, libc::ETIMEDOUT))).collect::<Result<_>>()?;
            for thread in all {
                thread.join().map_err(|_| anyhow::anyhow!("a connect panicked"))??;
            }
            Ok(begin)
        })?;
        Ok(failed(PEER, libc::ETIMEDOUT, earliest_ns))
    }
}

/// Starts a thread in the network namespace of this one.
fn here<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<T>>> {
    // A thread is born into the namespaces of its maker, but says so only by itself.
    let namespace = File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")?;
    Ok(std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
        work()
    }))
}

/// Connections that stood and that the server throws away.
#[derive(Debug)]
pub struct Reset;

impl Injector for Reset {
    fn name(&self) -> &'static str {
        "reset"
    }

    fn sensor(&self) -> &'static str {
        "tcp_reset"
    }

    fn inject(&mut self, _: &[String]) -> Result<Expected> {
        const PEER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
        let (earliest_ns, port) = private::on_own_thread(|| {
            own_loopback()?;
            let begin = monotonic_ns();
            let listener = TcpListener::bind((PEER, 0)).context("cannot listen")?;
            let server = listener.local_addr()?;
            (0..RESETS).try_for_each(|_| throw_away(&listener, server))?;
            Ok((begin, server.port()))
        })?;
        let event = json!({
            "sensor": "tcp_reset", "pid": null, "comm": null, "family": "ipv4", "daddr": PEER.to_string(), "dport": port,
            "state": "established", "sent": false,
        });
        Ok(expected("connection_reset", PEER, earliest_ns, json!({ "port": port, "count": RESETS }), event))
    }
}

fn throw_away(listener: &TcpListener, server: SocketAddr) -> Result<()> {
    use std::io::Read;
    let mut outgoing = TcpStream::connect(server).context("cannot connect")?;
    let (incoming, _) = listener.accept().context("cannot accept")?;
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&incoming, sockopt::Linger, &at_once).context("cannot set the linger time")?;
    drop(incoming);
    let error = outgoing.read(&mut [0]).err().context("it was closed, not reset")?;
    ensure!(error.raw_os_error() == Some(libc::ECONNRESET), "not a reset but {error}");
    Ok(())
}

/// A namespace with nothing but a loopback device.
fn own_loopback() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("a socket to ask by")?;
    up(&socket).context("cannot set the loopback device up")
}

/// netdevice(7), by hand: a machine that can run tests need not have `ip`.
#[expect(unsafe_code, reason = "SIOCSIFFLAGS has no safe wrapper")]
fn up(socket: &UdpSocket) -> std::io::Result<()> {
    // SAFETY: plain data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one ifreq.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn fail(peer: Ipv4Addr, errno: i32) -> Result<()> {
    (0..FAILURES).try_for_each(|_| one(peer, errno))
}

fn one(peer: Ipv4Addr, errno: i32) -> Result<()> {
    let error = TcpStream::connect((IpAddr::V4(peer), CLOSED)).err().context("somebody answered")?;
    ensure!(error.raw_os_error() == Some(errno), "the connect ended with {error}, not with errno {errno}");
    Ok(())
}

fn failed(peer: Ipv4Addr, errno: i32, earliest_ns: u64) -> Expected {
    let refused = errno == libc::ECONNREFUSED;
    let evidence = json!({
        "errno": errno, "port": CLOSED, "refused": refused, "established": false, "count": FAILURES,
    });
    let event = json!({
        "sensor": "tcp_connect", "pid": null, "comm": null, "family": "ipv4", "daddr": peer.to_string(), "dport": CLOSED,
        "state": "syn_sent", "error": errno, "given_up": false,
    });
    expected("connect_failure", peer, earliest_ns, evidence, event)
}

fn expected(
    kind: &str,
    peer: Ipv4Addr,
    earliest_ns: u64,
    evidence: serde_json::Value,
    event: serde_json::Value,
) -> Expected {
    Expected {
        kind: kind.into(),
        entity_kind: "peer".into(),
        entity_name: peer.to_string(),
        earliest_ns,
        latest_ns: monotonic_ns(),
        evidence: object(evidence),
        event: object(event),
    }
}
