//! `retransmit_storm`. In: retransmit records and ticks. Out: a signal per peer while it is stormy.
//!
//! A storm is a count over a few seconds that is high in itself, high against what this peer usually shows,
//! and a noticeable share of all segments sent to it. The share comes from `tcp_sock` totals at each
//! retransmit of a socket seen before, so no hook on the sending path is needed. A handful of retransmits is
//! never a storm.
#![forbid(unsafe_code)]

use faultline_common::event::TcpRetransmit;

use super::{Context, Detector, Signals};
use crate::{
    config::RetransmitStorm,
    learn::Baseline,
    model::{
        bounded::BoundedMap,
        entity::Entity,
        event::{self, Event},
        evidence::Evidence,
        fault::{Kind, Severity, Signal},
        input::Fact,
        snapshot::{Loader, Saver, SnapshotError},
    },
};

const AF_INET6: u16 = 10;
/// Peers followed at the same time; the least recently seen gives way.
const PEERS: usize = 4096;
/// Sockets whose totals are remembered for each peer.
const SOCKETS: usize = 4;
/// Slots of the window.
const SLOTS: usize = 5;
/// Windows before a baseline counts.
const WARM: u32 = 12;

/// The detector.
#[derive(Debug)]
pub struct Retransmit {
    rule: RetransmitStorm,
    slot_ns: u64,
    peers: BoundedMap<([u8; 16], u16), Peer>,
}

#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Peer {
    /// Number of the slot that `slots[slot % SLOTS]` counts.
    slot: u64,
    slots: [Slot; SLOTS],
    sockets: [Socket; SOCKETS],
    next_socket: usize,
    usual: Baseline,
}

#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Slot {
    retransmits: u64,
    /// Retransmits and segments of sockets whose totals are known.
    shared: u64,
    segments: u64,
}

#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
struct Socket {
    address: u64,
    segs_out: u32,
    total_retrans: u32,
}

impl Peer {
    /// Moves the window to `slot`; a whole window gone by feeds the baseline.
    fn advance(&mut self, slot: u64, learn: bool) {
        let steps = slot.saturating_sub(self.slot).min(SLOTS as u64);
        for _ in 0..steps {
            self.slot += 1;
            if self.slot.is_multiple_of(SLOTS as u64) && learn {
                let total = self.total().retransmits;
                self.usual.learn(total as f64);
            }
            self.slots[(self.slot % SLOTS as u64) as usize] = Slot::default();
        }
        self.slot = self.slot.max(slot);
    }

    fn total(&self) -> Slot {
        self.slots.iter().fold(Slot::default(), |sum, s| Slot {
            retransmits: sum.retransmits + s.retransmits,
            shared: sum.shared + s.shared,
            segments: sum.segments + s.segments,
        })
    }

    fn count(&mut self, e: &TcpRetransmit) {
        let current = &mut self.slots[(self.slot % SLOTS as u64) as usize];
        current.retransmits += 1;
        if !event::has(&e.header, const { TcpRetransmit::bit("segs_out") }) {
            return;
        }
        let now = Socket { address: e.sock, segs_out: e.segs_out, total_retrans: e.total_retrans };
        match self.sockets.iter_mut().find(|s| s.address == e.sock) {
            Some(known) => {
                current.segments += u64::from(e.segs_out.saturating_sub(known.segs_out));
                current.shared += u64::from(e.total_retrans.saturating_sub(known.total_retrans));
                *known = now;
            }
            None => {
                self.sockets[self.next_socket % SOCKETS] = now;
                self.next_socket += 1;
            }
        }
    }
}

impl Slot {
    /// Retransmits per thousand segments, where the totals are known.
    fn share_permille(&self) -> Option<u64> {
        (self.segments > 0).then(|| self.shared * 1000 / self.segments)
    }
}

impl Retransmit {
    /// From the thresholds of the configuration.
    pub fn new(rule: &RetransmitStorm) -> Self {
        let slot_ns = (rule.window_ns / SLOTS as u64).max(1);
        Self { rule: *rule, slot_ns, peers: BoundedMap::with_capacity(PEERS) }
    }
}

fn is_storm(rule: &RetransmitStorm, sum: &Slot, usual: Option<f64>) -> bool {
    let usual = usual.unwrap_or(0.0) * rule.factor;
    sum.retransmits >= rule.count
        && sum.retransmits as f64 > usual
        && sum.share_permille().is_none_or(|share| share >= rule.share_permille)
}

fn signal(peer: ([u8; 16], u16), sum: &Slot, usual: Option<f64>, cause_ns: Option<u64>) -> Signal {
    let share = sum.share_permille();
    let mut evidence = Evidence::EMPTY.number("retransmits", sum.retransmits);
    if let Some(share) = share {
        evidence = evidence.number("share_permille", share).number("segments", sum.segments);
    }
    if let Some(usual) = usual {
        evidence = evidence.number("usual", usual as u64);
    }
    Signal {
        kind: Kind::RetransmitStorm,
        entity: Entity::Peer { address: peer.0, v6: peer.1 == AF_INET6 },
        severity: if share.is_some_and(|s| s >= 200) { Severity::Error } else { Severity::Warning },
        confidence: if share.is_some() { 950 } else { 700 },
        evidence,
        cause_ns,
        joins: false,
    }
}

/// Without them nobody knows whose segments they are; all such events would become one peer.
const PEER: u64 = const { TcpRetransmit::bit("daddr") } | const { TcpRetransmit::bit("family") };

impl Detector for Retransmit {
    fn observe(&mut self, event: &Event, _: &mut Context, out: &mut Signals) {
        let Event::TcpRetransmit(e) = event else { return };
        if e.header.missing & PEER != 0 {
            return;
        }
        let key = (e.daddr, e.family);
        let slot = e.header.ktime_ns / self.slot_ns;
        let (peer, _) = self.peers.entry_or_insert_with(key, || Peer { slot, ..Peer::default() });
        let was_storm = is_storm(&self.rule, &peer.total(), peer.usual.level(WARM));
        peer.advance(slot, !was_storm);
        peer.count(e);
        let (sum, usual) = (peer.total(), peer.usual.level(WARM));
        // Every further retransmit of a storm would say the same again: once in a while is enough.
        if is_storm(&self.rule, &sum, usual) && (!was_storm || sum.retransmits.is_multiple_of(64)) {
            out.push(signal(key, &sum, usual, Some(e.header.ktime_ns)));
        }
    }

    fn fact(&mut self, fact: &Fact, _: &mut Context, out: &mut Signals) {
        let Fact::Tick { now_ns } = fact else { return };
        let slot = now_ns / self.slot_ns;
        for (key, peer) in self.peers.iter_mut() {
            if peer.slot == slot {
                continue;
            }
            let (sum, usual) = (peer.total(), peer.usual.level(WARM));
            let storm = is_storm(&self.rule, &sum, usual);
            peer.advance(slot, !storm);
            if storm && is_storm(&self.rule, &peer.total(), usual) {
                out.push(signal(*key, &sum, usual, None));
            }
        }
    }

    fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.peers);
    }

    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        self.peers = from.take()?;
        Ok(())
    }
}
