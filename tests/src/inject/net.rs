//! `net`. In: `ip`, `tc` and the netem module (a VM). Out: a TCP transfer between two own network namespaces that
//! loses every twentieth packet.
//!
//! One thread moves between both namespaces; sockets stay where they were made. The loss starts after the connection
//! stands, and one packet is one segment, so that a lost packet costs one retransmit. The transfer is small enough to
//! stay below the kernel-side limit of records per flow: what is refused there would be a `loss`.

use std::{
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
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

const RECEIVER: Ipv4Addr = Ipv4Addr::new(10, 204, 0, 1);
const PORT: u16 = 5204;
const LOSS: &str = "5%";
/// About 2100 segments, 100 of them lost.
const BYTES: usize = 3 << 20;
/// The longest pause of a transfer that is no hang.
const PAUSE: Duration = Duration::from_secs(30);

/// Two namespaces that are made when the loss is.
#[derive(Debug)]
pub struct LossyLink;

impl LossyLink {
    /// Loads the modules.
    ///
    /// # Errors
    /// There are none.
    pub fn prepare() -> Result<Self> {
        tool(&["modprobe", "veth"])?;
        tool(&["modprobe", "sch_netem"])?;
        Ok(Self)
    }
}

impl Injector for LossyLink {
    fn name(&self) -> &'static str {
        "net"
    }

    fn sensor(&self) -> &'static str {
        "tcp_retransmit"
    }

    fn inject(&mut self, missing: &[String]) -> Result<Expected> {
        let earliest_ns = private::on_own_thread(transfer)?;
        let mut event = object(json!({
            "sensor": "tcp_retransmit", "pid": null, "comm": null,
            "family": "ipv4", "saddr": "10.204.0.2", "daddr": RECEIVER.to_string(), "dport": PORT, "state": "established",
        }));
        if missing.iter().any(|field| field == "state") {
            event.insert("state".into(), json!(null));
        }
        Ok(Expected {
            kind: "retransmit_storm".into(),
            entity_kind: "peer".into(),
            entity_name: RECEIVER.to_string(),
            earliest_ns,
            latest_ns: monotonic_ns(),
            evidence: serde_json::Map::new(),
            event,
        })
    }
}

/// Builds both ends, sends, and returns when the loss began.
fn transfer() -> Result<u64> {
    let receiver = new_namespace()?;
    let sender = new_namespace()?;
    let there = format!("/proc/{}/fd/{}", std::process::id(), receiver.as_raw_fd());
    tool(&["ip", "link", "add", "fl-s", "gso_max_segs", "1", "type", "veth", "peer", "name", "fl-r"])?;
    tool(&["ip", "link", "set", "fl-r", "netns", &there])?;
    tool(&["ip", "address", "add", "10.204.0.2/24", "dev", "fl-s"])?;
    tool(&["ip", "link", "set", "fl-s", "up"])?;
    setns(&receiver, CloneFlags::CLONE_NEWNET).context("cannot enter the receiver's namespace")?;
    tool(&["ip", "address", "add", "10.204.0.1/24", "dev", "fl-r"])?;
    tool(&["ip", "link", "set", "fl-r", "up"])?;
    let listener = TcpListener::bind(SocketAddrV4::new(RECEIVER, PORT)).context("cannot listen")?;
    setns(&sender, CloneFlags::CLONE_NEWNET).context("cannot enter the sender's namespace")?;
    let outgoing = TcpStream::connect(SocketAddrV4::new(RECEIVER, PORT)).context("cannot connect")?;
    let (incoming, _) = listener.accept().context("cannot accept")?;
    let begin = monotonic_ns();
    tool(&["tc", "qdisc", "add", "dev", "fl-s", "root", "netem", "loss", LOSS])?;
    let reader = std::thread::spawn(move || receive(incoming));
    send(outgoing)?;
    let received = reader.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    ensure!(received == BYTES, "{received} of {BYTES} bytes arrived");
    Ok(begin)
}

fn new_namespace() -> Result<File> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    File::open("/proc/thread-self/ns/net").context("cannot open the network namespace")
}

fn send(mut outgoing: TcpStream) -> Result<()> {
    outgoing.set_write_timeout(Some(PAUSE))?;
    outgoing.write_all(&vec![0; BYTES]).context("cannot send")?;
    // The end that closes last keeps no socket, hence no namespace, waiting.
    outgoing.set_read_timeout(Some(PAUSE))?;
    let _ = outgoing.read(&mut [0]).context("no word that all arrived")?;
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&outgoing, sockopt::Linger, &at_once).context("cannot set the linger time")
}

fn receive(mut incoming: TcpStream) -> Result<usize> {
    incoming.set_read_timeout(Some(PAUSE))?;
    let (mut room, mut sum) = (vec![0; 1 << 16], 0);
    while sum < BYTES {
        match incoming.read(&mut room).context("cannot receive")? {
            0 => break,
            count => sum += count,
        }
    }
    incoming.write_all(b"!").context("cannot say that all arrived")?;
    Ok(sum)
}
