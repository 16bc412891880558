//! Sensor `process_exit`: hook sched_process_exit, one record per process that ended by a fatal signal or
//! with a non-zero status.
//!
//! The tracepoint fires per thread. From 6.16 it says whether the thread was the last (`group_dead`). Before,
//! `signal->live == 0` says so, but two threads that exit together may both see it: the first to insert
//! (start time, tgid) into REPORTED reports. Source: kernel/exit.c do_exit, v5.10 to v7.0.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::bpf_get_current_cgroup_id,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use aya_log_ebpf::debug;
use faultline_common::{
    event::{COMM_LEN, ProcessExit},
    exit,
    offsets::ABSENT,
    sensor::PROCESS_EXIT,
};

use crate::{
    emit::{Tally, tunables},
    maps::{self, offset},
    read::{Ptr, arg, or_missing, task_cgroup},
};

#[btf_tracepoint(function = "sched_process_exit")]
pub fn proc_exit_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn proc_exit_raw(ctx: RawTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[inline(always)]
fn observe<C: EbpfContext>(ctx: &C) -> Option<()> {
    let task = Ptr::new(arg(ctx, 0))?;
    let signal = task.follow(offset!(task_signal))?;
    if !group_is_dead(ctx, signal)? {
        return None;
    }
    // All that can fail comes before the event is seen: from there on every way out is counted.
    let leader = task.follow(offset!(task_group_leader))?;
    let pid: u32 = leader.read(offset!(task_tgid))?;
    let start_ns: u64 = leader.read(offset!(task_start_time))?;
    let code = exit::group_code(
        signal.read(offset!(signal_flags))?,
        signal.read(offset!(signal_group_exit_code))?,
        leader.read(offset!(task_exit_code))?,
    );
    if offset!(arg_group_dead) == ABSENT && is_reported(start_ns, pid) {
        return None;
    }
    let tally = Tally::seen(PROCESS_EXIT)?;
    if !exit::is_abnormal(code) {
        tally.filtered();
        return None;
    }
    debug!(ctx, "process {} ended abnormally with code {}", pid, code);
    report(tally, leader, pid, start_ns, code);
    Some(())
}

#[inline(always)]
fn group_is_dead<C: EbpfContext>(ctx: &C, signal: Ptr) -> Option<bool> {
    if offset!(arg_group_dead) != ABSENT {
        return Some(arg(ctx, 1) & 0xff != 0);
    }
    Some(signal.read::<i32>(offset!(signal_live))? == 0)
}

/// Whether another thread of the group was here before. Only "exists already" says so: where the insert fails
/// for any other reason (no free node on this CPU), a death reported twice is better than one never reported.
#[inline(always)]
fn is_reported(start_ns: u64, pid: u32) -> bool {
    const EEXIST: i64 = 17;
    match maps::REPORTED.insert(&[start_ns, pid as u64], &1, BPF_NOEXIST as u64) {
        Ok(()) => false,
        Err(error) => error as i64 == -EEXIST,
    }
}

/// Id of the exiting task's cgroup in the default hierarchy; missing where nobody mounted that hierarchy, since
/// then all processes are in its root and the id means nothing.
#[inline(always)]
fn own_cgroup(missing: &mut u64) -> u64 {
    if offset!(css_set_dfl_cgrp) == ABSENT {
        *missing |= const { ProcessExit::bit("cgroup_id") };
        return 0;
    }
    // SAFETY: a helper without arguments; `current` is the exiting task.
    unsafe { bpf_get_current_cgroup_id() }
}

#[inline(always)]
fn report(tally: Tally, leader: Ptr, pid: u32, start_ns: u64, exit_code: u32) {
    let Some(tunables) = tunables() else { return };
    let comm: [u8; COMM_LEN] = leader.read(offset!(task_comm)).unwrap_or_default();
    if !tally.admit(comm_key(&comm), tunables.exit_limit) {
        return;
    }
    let mut missing = 0;
    let parent = leader.follow(offset!(task_real_parent));
    let cred = leader.follow(offset!(task_cred));
    // Plain numbers from here on, 0 for none: the verifiers of 5.10 and 6.1 refuse an `Option` whose value may be unset.
    let parent_cgroup =
        or_missing(parent.and_then(task_cgroup), &mut missing, const { ProcessExit::bit("parent_cgroup_id") });
    let cgroup = own_cgroup(&mut missing);
    let record = ProcessExit {
        start_ns,
        parent_cgroup_id: parent_cgroup,
        pid,
        ppid: or_missing(
            parent.and_then(|p| p.read(offset!(task_tgid))),
            &mut missing,
            const { ProcessExit::bit("ppid") },
        ),
        uid: or_missing(cred.and_then(|c| c.read(offset!(cred_uid))), &mut missing, const { ProcessExit::bit("uid") }),
        exit_code,
        comm,
        header: tally.header::<ProcessExit>(cgroup, missing, 0),
    };
    // A signal, or the failure of a cgroup's main process, is rare and matters; plain statuses come in floods.
    if exit::signal(exit_code) == 0 && (parent_cgroup == 0 || parent_cgroup == cgroup) {
        tally.submit(&maps::BULK, record);
    } else if tally.critical_has_room() {
        tally.submit(&maps::CRITICAL, record);
    }
}

/// Both halves of a name folded into a key; equal names share a limit.
#[inline(always)]
fn comm_key(comm: &[u8; COMM_LEN]) -> u64 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *comm;
    let low = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let high = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
    (low ^ high.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15)) & !(0xff << 56)
}
