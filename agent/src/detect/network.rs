//! `connect_failure`, `connection_reset` and `bad_checksum`. In: failed connects, resets and dropped packets. Out: a signal
//! per peer when there are too many within a window; one alone is everyday life on a network.
//!
//! Resets count when they come from the peer and end a connection that stood: our own, those that refuse a connect (which
//! is a failed connect already), and those of connections that were closing anyway do not. A slow connect that succeeds is an
//! event and no failure; one that was given up after a while is one. Each network namespace has its own peers: the
//! loopback of one pod is not that of the next.
#![forbid(unsafe_code)]

use faultline_common::event::{FLAG_GIVEN_UP, PacketDrop, TcpConnect, TcpReset};

use super::{Signals, recent::Recent};
use crate::{
    config::{Burst, Detect},
    model::{
        bounded::BoundedMap,
        entity::Entity,
        event,
        evidence::Evidence,
        fault::{Kind, Severity, Signal},
        input::DropReason,
        snapshot::{Loader, Saver, SnapshotError},
    },
};

const AF_INET6: u16 = 10;
/// include/net/tcp_states.h
const ESTABLISHED: u16 = 1;
const SYN_SENT: u16 = 2;
const CLOSE_WAIT: u16 = 8;
/// `::ffff:0:0/96`.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
const IPV6_LOOPBACK: [u8; 16] = std::net::Ipv6Addr::LOCALHOST.octets();
/// How often quiet peers are forgotten, ns.
const TIDY_NS: u64 = 10_000_000_000;
const ECONNREFUSED: u32 = libc::ECONNREFUSED as u32;
/// Peers followed at the same time by each rule; the least recently seen gives way.
const PEERS: usize = 4096;
/// Reasons of this ending are wrong checksums: `tcp_csum`, `ip_csum`, `skb_csum`, `udp_csum`, `icmp_csum`.
const CHECKSUM: &str = "csum";
/// Such reasons that are remembered; a kernel has five.
const CHECKSUMS: usize = 32;

/// A rule and what it follows.
#[derive(Debug)]
struct Peers {
    kind: Kind,
    rule: Burst,
    /// By peer and network namespace.
    recent: BoundedMap<(Entity, u32), Recent>,
}

impl Peers {
    fn new(kind: Kind, rule: Burst) -> Self {
        Self { kind, rule, recent: BoundedMap::with_capacity(PEERS) }
    }

    /// `severity`: how bad too many are.
    fn count(&mut self, key: (Entity, u32), at_ns: u64, severity: Severity, evidence: Evidence, out: &mut Signals) {
        let (recent, _) = self.recent.entry_or_insert_with(key, Recent::default);
        recent.push(at_ns);
        let Some(span_ns) = recent.span_ns(self.rule.count).filter(|span_ns| *span_ns <= self.rule.window_ns) else {
            return;
        };
        out.push(Signal {
            kind: self.kind,
            entity: key.0,
            severity,
            confidence: 950,
            evidence: evidence.number("count", self.rule.count as u64).number("span_ms", span_ns / 1_000_000),
            cause_ns: Some(at_ns),
            joins: false,
        });
    }
}

impl Peers {
    /// Forgets whoever was quiet for a whole window.
    fn tidy(&mut self, now_ns: u64) {
        let window_ns = self.rule.window_ns;
        self.recent.retain(|_, recent| recent.last().is_some_and(|last| now_ns.saturating_sub(last) <= window_ns));
    }
}

/// The detector.
#[derive(Debug)]
pub struct Network {
    failures: Peers,
    resets: Peers,
    checksums: Peers,
    /// Numbers of the running kernel's reasons that mean a wrong checksum.
    reasons: Vec<u32>,
    tidied_ns: u64,
}

impl Network {
    /// From the thresholds of the configuration.
    pub fn new(detect: &Detect) -> Self {
        Self {
            failures: Peers::new(Kind::ConnectFailure, detect.connect_failure),
            resets: Peers::new(Kind::ConnectionReset, detect.connection_reset),
            checksums: Peers::new(Kind::BadChecksum, detect.bad_checksum),
            reasons: Vec::with_capacity(CHECKSUMS),
            tidied_ns: 0,
        }
    }

    /// A connect failed or was slow, or a connection timed out.
    pub fn connect(&mut self, e: &TcpConnect, out: &mut Signals) {
        const PEER: u64 = const { TcpConnect::bit("daddr") | TcpConnect::bit("family") };
        let given_up = e.header.flags & FLAG_GIVEN_UP != 0;
        let refused = e.error == ECONNREFUSED;
        // Whoever asks for `localhost` tries ::1 first, also where nobody ever listens there.
        let in_passing = refused && e.family == AF_INET6 && e.daddr == IPV6_LOOPBACK;
        if (e.error == 0 && !given_up) || in_passing || !event::has(&e.header, PEER) {
            return;
        }
        let evidence = Evidence::EMPTY
            .number("errno", e.error.into())
            .number("port", e.dport.into())
            .flag("refused", refused)
            .flag("given_up", given_up)
            .flag("established", e.state != SYN_SENT);
        // Somebody answers that nobody listens: most often a service that is about to start.
        let severity = if refused { Severity::Warning } else { Severity::Error };
        self.failures.count((peer(e.daddr, e.family), e.netns), e.header.ktime_ns, severity, evidence, out);
    }

    /// A connection was reset.
    pub fn reset(&mut self, e: &TcpReset, out: &mut Signals) {
        const NEEDED: u64 = const { TcpReset::bit("daddr") | TcpReset::bit("family") | TcpReset::bit("state") };
        if e.sent != 0 || !matches!(e.state, ESTABLISHED | CLOSE_WAIT) || !event::has(&e.header, NEEDED) {
            return;
        }
        let evidence = Evidence::EMPTY.number("port", e.dport.into());
        // Load balancers and impatient clients do so, too.
        self.resets.count((peer(e.daddr, e.family), e.netns), e.header.ktime_ns, Severity::Warning, evidence, out);
    }

    /// A packet was dropped.
    pub fn drop(&mut self, e: &PacketDrop, out: &mut Signals) {
        const NEEDED: u64 = const { PacketDrop::bit("saddr") | PacketDrop::bit("family") | PacketDrop::bit("reason") };
        if !event::has(&e.header, NEEDED) || !self.reasons.contains(&e.reason) {
            return;
        }
        let evidence = Evidence::EMPTY.number("protocol", e.protocol.into()).number("port", e.dport.into());
        self.checksums.count((peer(e.saddr, e.family), 0), e.header.ktime_ns, Severity::Error, evidence, out);
    }

    /// The kernel's names for its reasons.
    pub fn learn_reasons(&mut self, reasons: &[DropReason]) {
        self.reasons.clear();
        let wrong = reasons.iter().filter(|reason| reason.name.ends_with(CHECKSUM)).map(|reason| reason.number);
        self.reasons.extend(wrong.take(CHECKSUMS));
    }

    /// Time goes on.
    pub fn tick(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.tidied_ns) >= TIDY_NS {
            self.tidied_ns = now_ns;
            [&mut self.failures, &mut self.resets, &mut self.checksums]
                .into_iter()
                .for_each(|peers| peers.tidy(now_ns));
        }
    }

    /// Appends what was learnt.
    pub fn save(&self, to: &mut Saver<'_>) {
        [&self.failures, &self.resets, &self.checksums].iter().for_each(|peers| to.put(&peers.recent));
        to.put(&self.reasons);
        to.put(&self.tidied_ns);
    }

    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        for peers in [&mut self.failures, &mut self.resets, &mut self.checksums] {
            peers.recent = from.take()?;
        }
        (self.reasons, self.tidied_ns) = (from.take()?, from.take()?);
        Ok(())
    }
}

/// A v4 address in a v6 socket (RFC 4291, 2.5.5.2) is the same peer.
fn peer(address: [u8; 16], family: u16) -> Entity {
    match address.strip_prefix(&MAPPED) {
        Some(&[a, b, c, d]) if family == AF_INET6 => {
            let mut plain = [0; 16];
            plain[..4].copy_from_slice(&[a, b, c, d]);
            Entity::Peer { address: plain, v6: false }
        }
        _ => Entity::Peer { address, v6: family == AF_INET6 },
    }
}
