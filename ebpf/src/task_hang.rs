//! Sensor `task_hang`: hook sched_process_hang, one record each time the kernel's hung-task check meets a task that has
//! not run since the last one. It says so again at each check: user space tells the first from the rest.
//! Source: kernel/hung_task.c check_hung_task.

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_probe_read_kernel_str_bytes,
    macros::{btf_tracepoint, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext, TracePointContext},
};
use faultline_common::{
    event::{COMM_LEN, TaskHang},
    offsets::ABSENT,
    sensor::TASK_HANG,
};

use crate::{
    emit::Tally,
    maps::{self, offset},
    read::{Ptr, arg, or_missing, task_cgroup, tp_field},
};

/// Records per task and second: the check runs at most once a second.
const LIMIT: u64 = 2;

#[btf_tracepoint(function = "sched_process_hang")]
pub fn task_hang_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_hang")]
pub fn task_hang_raw(ctx: RawTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[tracepoint(category = "sched", name = "sched_process_hang")]
pub fn task_hang_tp(ctx: TracePointContext) -> u32 {
    let _ = observe_format(&ctx);
    0
}

#[inline(always)]
fn observe<C: EbpfContext>(ctx: &C) -> Option<()> {
    let tally = Tally::seen(TASK_HANG)?;
    let mut missing = 0;
    let task = Ptr::new(arg(ctx, 0));
    let pid: u32 =
        or_missing(task.and_then(|t| t.read(offset!(task_pid))), &mut missing, const { TaskHang::bit("pid") });
    if !tally.admit(pid as u64, LIMIT) || !tally.critical_has_room() {
        return None;
    }
    let cred = task.and_then(|t| t.follow(offset!(task_cred)));
    let cgroup = or_missing(task.and_then(task_cgroup), &mut missing, const { TaskHang::bit("cgroup_id") });
    let record = TaskHang {
        start_ns: or_missing(
            task.and_then(|t| t.read(offset!(task_start_time))),
            &mut missing,
            const { TaskHang::bit("start_ns") },
        ),
        pid,
        tgid: or_missing(task.and_then(|t| t.read(offset!(task_tgid))), &mut missing, const { TaskHang::bit("tgid") }),
        uid: or_missing(cred.and_then(|c| c.read(offset!(cred_uid))), &mut missing, const { TaskHang::bit("uid") }),
        reserved: 0,
        comm: or_missing(task.and_then(|t| t.read(offset!(task_comm))), &mut missing, const { TaskHang::bit("comm") }),
        header: tally.header::<TaskHang>(cgroup, missing, 0),
    };
    tally.submit(&maps::CRITICAL, record);
    Some(())
}

const NOT_IN_FORMAT: u64 = const { TaskHang::bit("start_ns") }
    | const { TaskHang::bit("tgid") }
    | const { TaskHang::bit("uid") }
    | const { TaskHang::bit("cgroup_id") };

#[inline(always)]
fn observe_format(ctx: &TracePointContext) -> Option<()> {
    let tally = Tally::seen(TASK_HANG)?;
    let mut missing = NOT_IN_FORMAT;
    let pid: u32 = or_missing(tp_field(ctx, offset!(tp_hang_pid)), &mut missing, const { TaskHang::bit("pid") });
    if !tally.admit(pid as u64, LIMIT) || !tally.critical_has_room() {
        return None;
    }
    let record = TaskHang {
        start_ns: 0,
        pid,
        tgid: 0,
        uid: 0,
        reserved: 0,
        comm: or_missing(format_comm(ctx), &mut missing, const { TaskHang::bit("comm") }),
        header: tally.header::<TaskHang>(0, missing, 0),
    };
    tally.submit(&maps::CRITICAL, record);
    Some(())
}

/// An array up to 6.12, a `__data_loc` after: its low 16 bits are the offset from the start of the record.
#[inline(always)]
fn format_comm(ctx: &TracePointContext) -> Option<[u8; COMM_LEN]> {
    if offset!(tp_hang_comm_loc) == ABSENT {
        return tp_field(ctx, offset!(tp_hang_comm));
    }
    let location: u32 = tp_field(ctx, offset!(tp_hang_comm_loc))?;
    let mut comm = [0; COMM_LEN];
    let start = (ctx.as_ptr() as u64 + (location & 0xffff) as u64) as *const u8;
    // SAFETY: checked by the kernel; reads at most COMM_LEN bytes and terminates them.
    unsafe { bpf_probe_read_kernel_str_bytes(start, &mut comm) }.ok()?;
    Some(comm)
}
