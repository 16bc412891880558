//! Sensor `packet_drop`: hook kfree_skb, one record per dropped packet of IPv4 or IPv6, few a second for each reason.
//!
//! Reasons exist from 5.17 on (some kernels carry them back); their numbers change with every version, so user space reads
//! the names from the running kernel's BTF and tells which are benign. Without reasons the place in the kernel's code is
//! what tells one kind of drop from another. Source: include/net/dropreason-core.h.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use faultline_common::{event::PacketDrop, sensor::PACKET_DROP, tunable::DROP_WORDS};

use crate::{
    emit::{Tally, tunables},
    maps,
    maps::offset,
    packet::{Ends, ends},
    read::{Ptr, arg, or_missing},
};

/// ETH_P_IP and ETH_P_IPV6 in network order on a little-endian machine.
const IP: u16 = 0x0008;
const IPV6: u16 = 0xdd86;

#[btf_tracepoint(function = "kfree_skb")]
pub fn packet_drop_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn packet_drop_raw(ctx: RawTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[inline(always)]
fn observe<C: EbpfContext>(ctx: &C) -> Option<()> {
    let skb = Ptr::new(arg(ctx, 0))?;
    // Buffers of netlink, of Unix sockets and of the link layer's own: no packets that anybody waits for.
    let protocol: u16 = skb.read(offset!(skb_protocol)).unwrap_or(0);
    if protocol != IP && protocol != IPV6 {
        return None;
    }
    let tally = Tally::seen(PACKET_DROP)?;
    let location = arg(ctx, 1);
    let known = offset!(arg_drop_reason) == 2;
    let reason = if known { arg(ctx, 2) as u32 } else { 0 };
    if known && is_benign(reason) {
        tally.filtered();
        return None;
    }
    let key = if known { reason as u64 } else { location & !(0xff << 56) };
    let sample = tally.sample(key, tunables()?.drop_limit);
    if sample == 0 {
        return None;
    }
    let missing = if known { 0 } else { const { PacketDrop::bit("reason") } };
    report(tally, skb, [location, sample - 1, missing], reason);
    Some(())
}

#[inline(always)]
fn is_benign(reason: u32) -> bool {
    let word = (reason / 64) as usize;
    match tunables() {
        Some(tunables) if word < DROP_WORDS => tunables.benign_drops[word] >> (reason % 64) & 1 == 1,
        _ => false,
    }
}

/// `known`: the place, how many drops were skipped, and the bits that are missing.
#[inline(always)]
fn report(tally: Tally, skb: Ptr, known: [u64; 3], reason: u32) {
    let mut missing = known[2] | const { PacketDrop::bit("cgroup_id") };
    let mut found = Ends::default();
    if !ends(skb, &mut found) {
        missing |= const {
            PacketDrop::bit("saddr")
                | PacketDrop::bit("daddr")
                | PacketDrop::bit("family")
                | PacketDrop::bit("protocol")
                | PacketDrop::bit("sport")
                | PacketDrop::bit("dport")
        };
    }
    let record = PacketDrop {
        location: known[0],
        saddr: found.saddr,
        daddr: found.daddr,
        reason,
        ifindex: or_missing(skb.read(offset!(skb_iif)), &mut missing, const { PacketDrop::bit("ifindex") }),
        bytes: or_missing(skb.read(offset!(skb_len)), &mut missing, const { PacketDrop::bit("bytes") }),
        family: found.family,
        protocol: found.protocol,
        sport: found.sport,
        dport: found.dport,
        skipped: known[1] as u32,
        header: tally.header::<PacketDrop>(0, missing, 0),
    };
    tally.submit(&maps::BULK, record);
}
