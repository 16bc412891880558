//! Sensor `tcp_retransmit`: hook tcp_retransmit_skb, one record per segment sent again.
//!
//! It runs in softirq: `current` means nothing, everything comes from the socket. From 6.17 the tracepoint
//! also reports failed attempts (`err != 0`); those are filtered. Source: net/ipv4/tcp_output.c.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext, TracePointContext},
};
use faultline_common::{event::TcpRetransmit, offsets::ABSENT, sensor::TCP_RETRANSMIT};

use crate::{
    emit::{Tally, tunables},
    maps::{self, offset},
    read::{Ptr, arg, or_missing, tp_field, tp_start},
    sock::{bits, flow, owner},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const ADDRESSES: u64 = TcpRetransmit::bit("saddr") | TcpRetransmit::bit("daddr");

#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn tcp_retrans_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
pub fn tcp_retrans_raw(ctx: RawTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[tracepoint(category = "tcp", name = "tcp_retransmit_skb")]
pub fn tcp_retrans_tp(ctx: TracePointContext) -> u32 {
    let _ = observe_format(&ctx);
    0
}

#[inline(always)]
fn observe<C: EbpfContext>(ctx: &C) -> Option<()> {
    let tally = Tally::seen(TCP_RETRANSMIT)?;
    if offset!(arg_retransmit_err) == 2 && arg(ctx, 2) as i32 != 0 {
        tally.filtered();
        return None;
    }
    let address = arg(ctx, 0);
    if !tally.admit(address, tunables()?.retransmit_limit) {
        return None;
    }
    let mut missing = 0;
    let sk = Ptr::new(address);
    let flow = flow(sk, &mut missing, &bits!(TcpRetransmit));
    let cgroup = owner(sk, &mut missing, const { TcpRetransmit::bit("cgroup_id") });
    let state: u8 =
        or_missing(sk.and_then(|s| s.read(offset!(sk_state))), &mut missing, const { TcpRetransmit::bit("state") });
    let record = TcpRetransmit {
        sock: address,
        saddr: flow.saddr,
        daddr: flow.daddr,
        segs_out: or_missing(
            sk.and_then(|s| s.read(offset!(tcp_segs_out))),
            &mut missing,
            const { TcpRetransmit::bit("segs_out") },
        ),
        total_retrans: or_missing(
            sk.and_then(|s| s.read(offset!(tcp_total_retrans))),
            &mut missing,
            const { TcpRetransmit::bit("total_retrans") },
        ),
        netns: flow.netns,
        family: flow.family,
        state: state as u16,
        sport: flow.sport,
        dport: flow.dport,
        reserved: 0,
        header: tally.header::<TcpRetransmit>(cgroup, missing, 0),
    };
    tally.submit(&maps::BULK, record);
    Some(())
}

#[inline(always)]
fn observe_format(ctx: &TracePointContext) -> Option<()> {
    let tally = Tally::seen(TCP_RETRANSMIT)?;
    if tp_field::<i32, _>(ctx, offset!(tp_tcp_err)).unwrap_or(0) != 0 {
        tally.filtered();
        return None;
    }
    let sock: u64 = tp_field(ctx, offset!(tp_tcp_skaddr)).unwrap_or(0);
    if !tally.admit(sock, tunables()?.retransmit_limit) {
        return None;
    }
    let mut missing = const { TcpRetransmit::bit("cgroup_id") }
        | const { TcpRetransmit::bit("segs_out") }
        | const { TcpRetransmit::bit("total_retrans") }
        | const { TcpRetransmit::bit("netns") };
    let family = format_family(ctx, &mut missing);
    let (mut saddr, mut daddr) = ([0; 16], [0; 16]);
    if !format_addresses(ctx, family, &mut saddr, &mut daddr) {
        missing |= ADDRESSES;
    }
    let state: u32 =
        or_missing(tp_field(ctx, offset!(tp_tcp_state)), &mut missing, const { TcpRetransmit::bit("state") });
    let record = TcpRetransmit {
        sock,
        saddr,
        daddr,
        segs_out: 0,
        total_retrans: 0,
        netns: 0,
        family,
        state: state as u16,
        sport: or_missing(tp_field(ctx, offset!(tp_tcp_sport)), &mut missing, const { TcpRetransmit::bit("sport") }),
        dport: or_missing(tp_field(ctx, offset!(tp_tcp_dport)), &mut missing, const { TcpRetransmit::bit("dport") }),
        reserved: 0,
        header: tally.header::<TcpRetransmit>(0, missing, 0),
    };
    tally.submit(&maps::BULK, record);
    Some(())
}

/// Before 6.1 the format has no family; a zero IPv4 peer then means IPv6.
#[inline(always)]
fn format_family(ctx: &TracePointContext, missing: &mut u64) -> u16 {
    if offset!(tp_tcp_family) != ABSENT {
        return or_missing(tp_field(ctx, offset!(tp_tcp_family)), missing, const { TcpRetransmit::bit("family") });
    }
    match tp_field::<u32, _>(ctx, offset!(tp_tcp_daddr)) {
        Some(0) => AF_INET6,
        Some(_) => AF_INET,
        None => or_missing(None, missing, const { TcpRetransmit::bit("family") }),
    }
}

#[inline(always)]
fn format_addresses(ctx: &TracePointContext, family: u16, saddr: &mut [u8; 16], daddr: &mut [u8; 16]) -> bool {
    if family == AF_INET6 {
        tp_start::<16, _>(ctx, offset!(tp_tcp_saddr6), saddr) & tp_start::<16, _>(ctx, offset!(tp_tcp_daddr6), daddr)
    } else {
        tp_start::<4, _>(ctx, offset!(tp_tcp_saddr), saddr) & tp_start::<4, _>(ctx, offset!(tp_tcp_daddr), daddr)
    }
}
