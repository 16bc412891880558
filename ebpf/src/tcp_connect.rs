//! Sensor `tcp_connect`: hook inet_sock_set_state, one record per connect that fails or is slow, and per established
//! connection that times out.
//!
//! A connect begins with the change to SYN_SENT and ends with the next one; its socket's address is the key in between.
//! `sk_err` is set before the state changes, so it says why. One that is closed without an error was given up by its owner:
//! at once that is nobody's business, after a while it is how most clients meet a peer that does not answer. (An application
//! that polls may fetch and clear the error at that very moment, and connect(2) that finds no port sets none: these look
//! the same.) Source: net/ipv4/tcp_input.c tcp_reset, tcp_timer.c
//! tcp_write_err, tcp_ipv4.c tcp_v4_err.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use faultline_common::{
    counter::{INSERT_FAILED, UNMATCHED},
    event::{FLAG_GIVEN_UP, FLAG_NO_LATENCY, TcpConnect},
    sensor::TCP_CONNECT,
};

use crate::{
    emit::{Tally, now, tunables},
    maps,
    maps::offset,
    read::{Ptr, arg},
    sock::{bits, flow, owner, peer_key},
};

const IPPROTO_TCP: u16 = 6;
/// How a connection ends to whose peer there is no way any more: by its timer, which tells the last thing it heard
/// (tcp_write_err: ENETDOWN, ENETUNREACH, ETIMEDOUT, EHOSTDOWN, EHOSTUNREACH).
const SILENT: [i32; 5] = [100, 101, 110, 112, 113];
/// include/net/tcp_states.h
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const CLOSE: u32 = 7;

#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_connect_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn tcp_connect_raw(ctx: RawTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[inline(always)]
fn observe<C: EbpfContext>(ctx: &C) -> Option<()> {
    let (before, after) = (arg(ctx, 1) as u32, arg(ctx, 2) as u32);
    if before != SYN_SENT && after != SYN_SENT && (before != ESTABLISHED || after != CLOSE) {
        return None;
    }
    let sk = Ptr::new(arg(ctx, 0))?;
    // DCCP, MPTCP and SCTP pass here, too.
    if sk.read::<u16>(offset!(sk_protocol)).unwrap_or(0) != IPPROTO_TCP {
        return None;
    }
    if after == SYN_SENT {
        if maps::CONNECTS.insert(&sk.address(), &now(), 0).is_err() {
            Tally::here(TCP_CONNECT)?.add(INSERT_FAILED);
        }
        return None;
    }
    let error = sk.read::<i32>(offset!(sk_err)).unwrap_or(0);
    let tally = Tally::seen(TCP_CONNECT)?;
    if before == ESTABLISHED {
        if !SILENT.contains(&error) {
            tally.filtered();
            return None;
        }
        return report(tally, sk, before, error, 0, FLAG_NO_LATENCY);
    }
    let begun = took(sk);
    let latency_ns = if begun == 0 { 0 } else { now().saturating_sub(begun) };
    if begun == 0 {
        tally.add(UNMATCHED);
    }
    let slow = latency_ns >= tunables()?.connect_slow_ns;
    let failed = after == CLOSE && error != 0;
    let told = failed || (slow && (after == ESTABLISHED || after == CLOSE));
    if !told {
        tally.filtered();
        return None;
    }
    let unknown = if begun == 0 { FLAG_NO_LATENCY } else { 0 };
    let given_up = if after == CLOSE && !failed { FLAG_GIVEN_UP } else { 0 };
    report(tally, sk, before, if failed { error } else { 0 }, latency_ns, unknown | given_up)
}

/// When the connect began; 0 when that was not seen.
#[inline(always)]
fn took(sk: Ptr) -> u64 {
    let key = sk.address();
    let begun = match maps::CONNECTS.get_ptr(&key) {
        // SAFETY: a live element, written once before this state change.
        Some(begun) => unsafe { *begun },
        None => 0,
    };
    let _ = maps::CONNECTS.remove(&key);
    begun
}

#[inline(always)]
fn report(tally: Tally, sk: Ptr, state: u32, error: i32, latency_ns: u64, flags: u16) -> Option<()> {
    let mut missing = 0;
    let flow = flow(Some(sk), &mut missing, &bits!(TcpConnect));
    if !tally.admit(peer_key(&flow), tunables()?.peer_limit) {
        return None;
    }
    let cgroup = owner(Some(sk), &mut missing, const { TcpConnect::bit("cgroup_id") });
    let record = TcpConnect {
        sock: sk.address(),
        latency_ns,
        saddr: flow.saddr,
        daddr: flow.daddr,
        netns: flow.netns,
        error: error as u32,
        family: flow.family,
        state: state as u16,
        sport: flow.sport,
        dport: flow.dport,
        header: tally.header::<TcpConnect>(cgroup, missing, flags),
    };
    tally.submit(&maps::BULK, record);
    Some(())
}
