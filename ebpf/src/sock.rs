//! Sockets: a `struct sock` in; the flow it stands for and who owns it, out. Shared by the TCP sensors, since in softirq
//! `current` means nothing. Source: include/net/sock.h, include/linux/cgroup-defs.h (`struct sock_cgroup_data`).

use crate::{
    maps::offset,
    read::{Ptr, or_missing},
};

const AF_INET6: u16 = 10;

/// Ends of a flow; all 0 where unknown.
pub struct Flow {
    pub saddr: [u8; 16],
    pub daddr: [u8; 16],
    pub netns: u32,
    pub family: u16,
    pub sport: u16,
    /// Host order.
    pub dport: u16,
}

/// The `missing` bits of the record that the flow goes into.
pub struct Bits {
    pub saddr: u64,
    pub daddr: u64,
    pub netns: u64,
    pub family: u64,
    pub sport: u64,
    pub dport: u64,
}

/// The bits of a record type, by the names that all TCP records share.
macro_rules! bits {
    ($record:ty) => {
        const {
            $crate::sock::Bits {
                saddr: <$record>::bit("saddr"),
                daddr: <$record>::bit("daddr"),
                netns: <$record>::bit("netns"),
                family: <$record>::bit("family"),
                sport: <$record>::bit("sport"),
                dport: <$record>::bit("dport"),
            }
        }
    };
}
pub(crate) use bits;

/// Reads both ends of a socket; an IPv4 address takes the first bytes of the wide field.
#[inline(always)]
pub fn flow(sk: Option<Ptr>, missing: &mut u64, bits: &Bits) -> Flow {
    let family: u16 = or_missing(sk.and_then(|s| s.read(offset!(sk_family))), missing, bits.family);
    let (mut saddr, mut daddr) = ([0; 16], [0; 16]);
    if !addresses(sk, family, &mut saddr, &mut daddr) {
        *missing |= bits.saddr | bits.daddr;
    }
    let netns = sk.and_then(|s| s.follow(offset!(sk_net))).and_then(|n| n.read(offset!(net_inum)));
    let dport: u16 = or_missing(sk.and_then(|s| s.read(offset!(sk_dport))), missing, bits.dport);
    Flow {
        saddr,
        daddr,
        netns: or_missing(netns, missing, bits.netns),
        family,
        sport: local_port(sk, missing, bits.sport),
        dport: u16::from_be(dport),
    }
}

/// A socket that closes has given its port back (`skc_num`) and still remembers it (`inet_sport`); the short forms of
/// sockets in handshake and TIME_WAIT have the first only.
#[inline(always)]
fn local_port(sk: Option<Ptr>, missing: &mut u64, bit: u64) -> u16 {
    let held: u16 = or_missing(sk.and_then(|s| s.read(offset!(sk_num))), missing, bit);
    if held != 0 {
        return held;
    }
    u16::from_be(full(sk).and_then(|s| s.read(offset!(inet_sport))).unwrap_or(0))
}

/// The socket, unless it is one of the short forms, behind which lies other memory (`sk_fullsock`).
#[inline(always)]
fn full(sk: Option<Ptr>) -> Option<Ptr> {
    const TIME_WAIT: u8 = 6;
    const NEW_SYN_RECV: u8 = 12;
    let state: u8 = sk.and_then(|s| s.read(offset!(sk_state))).unwrap_or(TIME_WAIT);
    if state == TIME_WAIT || state == NEW_SYN_RECV { None } else { sk }
}

#[inline(always)]
fn addresses(sk: Option<Ptr>, family: u16, saddr: &mut [u8; 16], daddr: &mut [u8; 16]) -> bool {
    let Some(sk) = sk else { return false };
    if family == AF_INET6 {
        sk.read_start::<16>(offset!(sk_saddr6), saddr) & sk.read_start::<16>(offset!(sk_daddr6), daddr)
    } else {
        sk.read_start::<4>(offset!(sk_saddr), saddr) & sk.read_start::<4>(offset!(sk_daddr), daddr)
    }
}

/// Id of the cgroup that made the socket, in the default hierarchy; marks `bit` as missing where it is not known. Up to
/// 5.14 the word is no plain pointer once net_cls or net_prio is in use, which its two lowest bits say.
#[inline(always)]
pub fn owner(sk: Option<Ptr>, missing: &mut u64, bit: u64) -> u64 {
    let word: u64 = match full(sk) {
        Some(sk) if offset!(css_set_dfl_cgrp) != faultline_common::offsets::ABSENT => {
            sk.read(offset!(sk_cgroup)).unwrap_or(0)
        }
        _ => 0,
    };
    let id: u64 = if word & 3 == 0 {
        Ptr::new(word)
            .and_then(|c| c.follow(offset!(cgroup_kn)))
            .and_then(|kn| kn.read(offset!(kernfs_id)))
            .unwrap_or(0)
    } else {
        0
    };
    if id == 0 {
        *missing |= bit;
    }
    id
}

/// A key for limits: the peer, by address and port.
#[inline(always)]
pub fn peer_key(flow: &Flow) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = flow.daddr;
    let high = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
    let mixed = (high ^ low.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ flow.dport as u64;
    mixed & !(0xff << 56)
}
