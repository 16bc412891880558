//! Sensor `tcp_reset`: hooks tcp_receive_reset and tcp_send_reset, one record per reset of a connection.
//!
//! Both run in softirq, so everything comes from the socket. A reset that answers a segment for which there is no socket
//! (a closed port) carries none: its ends are those of the segment, turned round. Before 6.10 such resets are not told.
//! Source: net/ipv4/tcp_ipv4.c tcp_v4_send_reset, tcp_output.c tcp_send_active_reset, tcp_input.c tcp_reset.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use faultline_common::{event::TcpReset, sensor::TCP_RESET};

use crate::{
    emit::{Tally, tunables},
    maps,
    maps::offset,
    packet::{Ends, ends},
    read::{Ptr, arg, or_missing},
    sock::{Flow, bits, flow, owner, peer_key},
};

/// Marks keys of local ports.
const LOCAL: u64 = 1 << 48;

#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_reset_in_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = received(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "tcp_receive_reset")]
pub fn tcp_reset_in_raw(ctx: RawTracePointContext) -> i32 {
    let _ = received(&ctx);
    0
}

#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_reset_out_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = sent(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "tcp_send_reset")]
pub fn tcp_reset_out_raw(ctx: RawTracePointContext) -> i32 {
    let _ = sent(&ctx);
    0
}

#[inline(always)]
fn received<C: EbpfContext>(ctx: &C) -> Option<()> {
    let tally = Tally::seen(TCP_RESET)?;
    of_socket(tally, Ptr::new(arg(ctx, 0)), 0)
}

#[inline(always)]
fn sent<C: EbpfContext>(ctx: &C) -> Option<()> {
    let tally = Tally::seen(TCP_RESET)?;
    let sk = Ptr::new(arg(ctx, 0));
    if sk.is_some() {
        return of_socket(tally, sk, 1);
    }
    let mut found = Ends::default();
    let known = match Ptr::new(arg(ctx, 1)) {
        Some(skb) => ends(skb, &mut found),
        None => false,
    };
    if !known {
        tally.filtered();
        return None;
    }
    let flow = Flow {
        saddr: found.daddr,
        daddr: found.saddr,
        netns: 0,
        family: found.family,
        sport: found.dport,
        dport: found.sport,
    };
    let missing = const { TcpReset::bit("netns") | TcpReset::bit("state") | TcpReset::bit("cgroup_id") };
    report(tally, &flow, [0, 0, missing], 1, 0)
}

#[inline(always)]
fn of_socket(tally: Tally, sk: Option<Ptr>, sent: u32) -> Option<()> {
    let mut missing = 0;
    let flow = flow(sk, &mut missing, &bits!(TcpReset));
    let state: u8 =
        or_missing(sk.and_then(|s| s.read(offset!(sk_state))), &mut missing, const { TcpReset::bit("state") });
    let cgroup = owner(sk, &mut missing, const { TcpReset::bit("cgroup_id") });
    let address = match sk {
        Some(sk) => sk.address(),
        None => 0,
    };
    report(tally, &flow, [address, cgroup, missing], sent, state as u16)
}

/// `known`: the socket's address, the owner's cgroup, and the bits that are missing.
#[inline(always)]
fn report(tally: Tally, flow: &Flow, known: [u64; 3], sent: u32, state: u16) -> Option<()> {
    // What we send goes to whoever asked, from whatever port: a scan must not be a flow per segment.
    let key = if sent != 0 { LOCAL | flow.sport as u64 } else { peer_key(flow) };
    if !tally.admit(key, tunables()?.peer_limit) {
        return None;
    }
    let record = TcpReset {
        sock: known[0],
        saddr: flow.saddr,
        daddr: flow.daddr,
        netns: flow.netns,
        sent,
        family: flow.family,
        state,
        sport: flow.sport,
        dport: flow.dport,
        header: tally.header::<TcpReset>(known[1], known[2], 0),
    };
    tally.submit(&maps::BULK, record);
    Some(())
}
