//! `connect_failure`, `connection_reset` and `bad_checksum`. In: failed connects, resets and dropped packets. Out: a signal
//! per peer when there are too many within a window; one alone is everyday life on a network.
//!
//! Resets count when they come from the peer and end a connection that stood: our own, and those that refuse a connect
//! (which is a failed connect already), do not. A slow connect that succeeds is an event and no failure.
#![forbid(unsafe_code)]

use faultline_common::event::{PacketDrop, TcpConnect, TcpReset};

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
const SYN_SENT: u16 = 2;
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
    recent: BoundedMap<Entity, Recent>,
}

impl Peers {
    fn new(kind: Kind, rule: Burst) -> Self {
        Self { kind, rule, recent: BoundedMap::with_capacity(PEERS) }
    }

    fn count(&mut self, peer: Entity, at_ns: u64, evidence: Evidence, out: &mut Signals) {
        let (recent, _) = self.recent.entry_or_insert_with(peer, Recent::default);
        recent.push(at_ns);
        let Some(span_ns) = recent.span_ns(self.rule.count).filter(|span_ns| *span_ns <= self.rule.window_ns) else {
            return;
        };
        out.push(Signal {
            kind: self.kind,
            entity: peer,
            severity: Severity::Error,
            confidence: 950,
            evidence: evidence.number("count", self.rule.count as u64).number("span_ms", span_ns / 1_000_000),
            cause_ns: Some(at_ns),
            joins: false,
        });
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
}

impl Network {
    /// From the thresholds of the configuration.
    pub fn new(detect: &Detect) -> Self {
        Self {
            failures: Peers::new(Kind::ConnectFailure, detect.connect_failure),
            resets: Peers::new(Kind::ConnectionReset, detect.connection_reset),
            checksums: Peers::new(Kind::BadChecksum, detect.bad_checksum),
            reasons: Vec::with_capacity(CHECKSUMS),
        }
    }

    /// A connect failed or was slow, or a connection timed out.
    pub fn connect(&mut self, e: &TcpConnect, out: &mut Signals) {
        const PEER: u64 = const { TcpConnect::bit("daddr") | TcpConnect::bit("family") };
        if e.error == 0 || !event::has(&e.header, PEER) {
            return;
        }
        let evidence = Evidence::EMPTY
            .number("errno", e.error.into())
            .number("port", e.dport.into())
            .flag("refused", e.error == ECONNREFUSED)
            .flag("established", e.state != SYN_SENT);
        self.failures.count(peer(e.daddr, e.family), e.header.ktime_ns, evidence, out);
    }

    /// A connection was reset.
    pub fn reset(&mut self, e: &TcpReset, out: &mut Signals) {
        const NEEDED: u64 = const { TcpReset::bit("daddr") | TcpReset::bit("family") | TcpReset::bit("state") };
        if e.sent != 0 || e.state == SYN_SENT || !event::has(&e.header, NEEDED) {
            return;
        }
        let evidence = Evidence::EMPTY.number("port", e.dport.into());
        self.resets.count(peer(e.daddr, e.family), e.header.ktime_ns, evidence, out);
    }

    /// A packet was dropped.
    pub fn drop(&mut self, e: &PacketDrop, out: &mut Signals) {
        const NEEDED: u64 = const { PacketDrop::bit("saddr") | PacketDrop::bit("family") | PacketDrop::bit("reason") };
        if !event::has(&e.header, NEEDED) || !self.reasons.contains(&e.reason) {
            return;
        }
        let evidence = Evidence::EMPTY.number("protocol", e.protocol.into()).number("port", e.dport.into());
        self.checksums.count(peer(e.saddr, e.family), e.header.ktime_ns, evidence, out);
    }

    /// The kernel's names for its reasons.
    pub fn learn_reasons(&mut self, reasons: &[DropReason]) {
        self.reasons.clear();
        let wrong = reasons.iter().filter(|reason| reason.name.ends_with(CHECKSUM)).map(|reason| reason.number);
        self.reasons.extend(wrong.take(CHECKSUMS));
    }

    /// Appends what was learnt.
    pub fn save(&self, to: &mut Saver<'_>) {
        [&self.failures, &self.resets, &self.checksums].iter().for_each(|peers| to.put(&peers.recent));
        to.put(&self.reasons);
    }

    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        for peers in [&mut self.failures, &mut self.resets, &mut self.checksums] {
            peers.recent = from.take()?;
        }
        self.reasons = from.take()?;
        Ok(())
    }
}

fn peer(address: [u8; 16], family: u16) -> Entity {
    Entity::Peer { address, v6: family == AF_INET6 }
}
