//! Sensor `oom_kill`: hook mark_victim, one record per victim.
//!
//! `current` is the *trigger* (whose allocation failed), never the victim. mark_victim passes the victim's
//! task on newer kernels and only its pid on others (5.10.218); the loader tells which from BTF. The
//! tracepoint rung reads the fields of the running kernel's format. Source: mm/oom_kill.c mark_oom_victim.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel_str_bytes},
    macros::{btf_tracepoint, raw_tracepoint, tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext, TracePointContext},
};
use faultline_common::{
    event::{COMM_LEN, OomKill},
    offsets::ABSENT,
    sensor::OOM_KILL,
};

use crate::{
    emit::Tally,
    maps::{self, offset},
    read::{Ptr, arg, or_missing, tp_field},
};

#[btf_tracepoint(function = "mark_victim")]
pub fn oom_kill_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn oom_kill_raw(ctx: RawTracePointContext) -> i32 {
    let _ = observe(&ctx);
    0
}

#[tracepoint(category = "oom", name = "mark_victim")]
pub fn oom_kill_tp(ctx: TracePointContext) -> u32 {
    let _ = observe_format(&ctx);
    0
}

#[inline(always)]
fn observe<C: EbpfContext>(ctx: &C) -> Option<()> {
    let tally = Tally::seen(OOM_KILL)?;
    let victim = arg(ctx, 0);
    if offset!(arg_victim_is_task) != 1 {
        let missing = FROM_TASK | const { OomKill::bit("cgroup_id") };
        submit(tally, victim as u32, Facts::default(), [0; COMM_LEN], 0, missing);
        return Some(());
    }
    let mut missing = 0;
    let task = Ptr::new(victim);
    // The marked task may be any thread of the victim; its exit will be told by the group's id.
    let pid =
        or_missing(task.and_then(|t| t.read(offset!(task_tgid))), &mut missing, const { OomKill::bit("victim_pid") });
    let comm = task.and_then(|t| t.read(offset!(task_comm)));
    let comm = or_missing(comm, &mut missing, const { OomKill::bit("victim_comm") });
    let cgroup = or_missing(task.and_then(memory_cgroup), &mut missing, const { OomKill::bit("cgroup_id") });
    let facts = facts(task, &mut missing);
    submit(tally, pid, facts, comm, cgroup, missing);
    Some(())
}

/// Memory of the victim, kB; all fields that need the task.
#[derive(Default)]
struct Facts {
    total_vm_kb: u64,
    anon_kb: u64,
    file_kb: u64,
    shmem_kb: u64,
    uid: u32,
}

const FROM_TASK: u64 = const { OomKill::bit("total_vm_kb") }
    | const { OomKill::bit("anon_kb") }
    | const { OomKill::bit("file_kb") }
    | const { OomKill::bit("shmem_kb") }
    | const { OomKill::bit("uid") }
    | const { OomKill::bit("victim_comm") };

#[inline(always)]
fn facts(task: Option<Ptr>, missing: &mut u64) -> Facts {
    let mm = task.and_then(|t| t.follow(offset!(task_mm)));
    let cred = task.and_then(|t| t.follow(offset!(task_cred)));
    Facts {
        total_vm_kb: pages(mm, offset!(mm_total_vm), missing, const { OomKill::bit("total_vm_kb") }),
        anon_kb: pages(mm, offset!(mm_anon), missing, const { OomKill::bit("anon_kb") }),
        file_kb: pages(mm, offset!(mm_file), missing, const { OomKill::bit("file_kb") }),
        shmem_kb: pages(mm, offset!(mm_shmem), missing, const { OomKill::bit("shmem_kb") }),
        uid: or_missing(cred.and_then(|c| c.read(offset!(cred_uid))), missing, const { OomKill::bit("uid") }),
    }
}

/// A page counter in kB; the kernel's own counters may dip below zero between batches and mean zero then.
#[inline(always)]
fn pages(mm: Option<Ptr>, at: u32, missing: &mut u64, bit: u64) -> u64 {
    let pages: i64 = or_missing(mm.and_then(|mm| mm.read(at)), missing, bit);
    if pages < 0 { 0 } else { (pages as u64) << (offset!(page_shift) - 10) }
}

/// Id of a task's cgroup in the hierarchy of the memory controller, v1 or v2.
#[inline(always)]
fn memory_cgroup(task: Ptr) -> Option<u64> {
    task.follow(offset!(task_cgroups))?
        .follow(offset!(css_set_memory))?
        .follow(offset!(css_cgroup))?
        .follow(offset!(cgroup_kn))?
        .read(offset!(kernfs_id))
}

#[inline(always)]
fn observe_format(ctx: &TracePointContext) -> Option<()> {
    let tally = Tally::seen(OOM_KILL)?;
    let mut missing = const { OomKill::bit("cgroup_id") };
    let victim_pid =
        or_missing(tp_field(ctx, offset!(tp_victim_pid)), &mut missing, const { OomKill::bit("victim_pid") });
    let facts = Facts {
        total_vm_kb: or_missing(
            tp_field(ctx, offset!(tp_victim_total_vm)),
            &mut missing,
            const { OomKill::bit("total_vm_kb") },
        ),
        anon_kb: or_missing(tp_field(ctx, offset!(tp_victim_anon)), &mut missing, const { OomKill::bit("anon_kb") }),
        file_kb: or_missing(tp_field(ctx, offset!(tp_victim_file)), &mut missing, const { OomKill::bit("file_kb") }),
        shmem_kb: or_missing(tp_field(ctx, offset!(tp_victim_shmem)), &mut missing, const { OomKill::bit("shmem_kb") }),
        uid: or_missing(tp_field(ctx, offset!(tp_victim_uid)), &mut missing, const { OomKill::bit("uid") }),
    };
    let comm = or_missing(format_comm(ctx), &mut missing, const { OomKill::bit("victim_comm") });
    submit(tally, victim_pid, facts, comm, 0, missing);
    Some(())
}

/// The `__data_loc` string of the format: low 16 bits are its offset from the start of the record.
#[inline(always)]
fn format_comm(ctx: &TracePointContext) -> Option<[u8; COMM_LEN]> {
    if offset!(tp_victim_comm) == ABSENT {
        return None;
    }
    let location: u32 = tp_field(ctx, offset!(tp_victim_comm))?;
    let mut comm = [0; COMM_LEN];
    let start = (ctx.as_ptr() as u64 + (location & 0xffff) as u64) as *const u8;
    // SAFETY: checked by the kernel; reads at most COMM_LEN bytes and terminates them.
    unsafe { bpf_probe_read_kernel_str_bytes(start, &mut comm) }.ok()?;
    Some(comm)
}

#[inline(always)]
fn submit(tally: Tally, victim_pid: u32, facts: Facts, victim_comm: [u8; COMM_LEN], cgroup: u64, missing: u64) {
    let record = OomKill {
        anon_kb: facts.anon_kb,
        file_kb: facts.file_kb,
        shmem_kb: facts.shmem_kb,
        total_vm_kb: facts.total_vm_kb,
        victim_pid,
        trigger_pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: facts.uid,
        reserved: 0,
        victim_comm,
        trigger_comm: bpf_get_current_comm().unwrap_or_default(),
        header: tally.header::<OomKill>(cgroup, missing, 0),
    };
    tally.submit(&maps::CRITICAL, record);
}
