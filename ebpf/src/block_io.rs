//! Sensor `block_io`: hooks block_rq_issue and block_rq_complete, latency from issue to completion.
//!
//! Needs the request as first argument: kernels before 5.11 pass the queue first, unless they carry the
//! backport (5.10.137). Keyed by the request's address, never by sector (the tracepoint *format* has no request, so there is no
//! plain-tracepoint rung). Every completion costs one map look-up and one histogram add; only outliers above
//! the device's threshold and errors become records. Source: block/blk-mq.c, v5.10 to v7.0.

use aya_ebpf::{
    EbpfContext,
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use aya_log_ebpf::debug;
use faultline_common::{
    counter,
    event::{BlockIo, FLAG_BLK_STATUS, FLAG_NO_LATENCY},
    hist,
    sensor::BLOCK_IO,
    tunable::{DEVICE_PROBES, DeviceEntry, device_position},
};

use crate::{
    emit::{Tally, atomic_add, now, tunables},
    maps::{self, offset},
    read::{Ptr, arg, or_missing},
};

/// `REQ_OP_MASK` of include/linux/blk_types.h.
const OP_MASK: u32 = 0xff;

#[btf_tracepoint(function = "block_rq_issue")]
pub fn block_issue_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = issue(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "block_rq_issue")]
pub fn block_issue_raw(ctx: RawTracePointContext) -> i32 {
    let _ = issue(&ctx);
    0
}

#[btf_tracepoint(function = "block_rq_complete")]
pub fn block_done_btf(ctx: BtfTracePointContext) -> i32 {
    let _ = complete(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "block_rq_complete")]
pub fn block_done_raw(ctx: RawTracePointContext) -> i32 {
    let _ = complete(&ctx);
    0
}

#[inline(always)]
fn issue<C: EbpfContext>(ctx: &C) -> Option<()> {
    let rq = Ptr::new(arg(ctx, 0))?;
    if maps::INFLIGHT.insert(&rq.address(), &now(), 0).is_err() {
        debug!(ctx, "the in-flight table is full");
        Tally::here(BLOCK_IO)?.add(counter::INSERT_FAILED);
    }
    Some(())
}

/// One completion, as far as it could be read.
struct Done {
    rq: Ptr,
    error: i32,
    bytes: u32,
    op: u32,
    dev: u32,
    latency_ns: Option<u64>,
}

#[inline(always)]
fn complete<C: EbpfContext>(ctx: &C) -> Option<()> {
    let rq = Ptr::new(arg(ctx, 0))?;
    let error = raw_error(arg(ctx, 1));
    let bytes = arg(ctx, 2) as u32;
    let left: u32 = rq.read(offset!(rq_data_len)).unwrap_or(0);
    if error == 0 && bytes < left {
        // A partial completion: the request goes on, its time is taken at the end.
        return None;
    }
    let tally = Tally::seen(BLOCK_IO)?;
    let latency_ns = take_issue_time(rq).map(|issued| now().saturating_sub(issued));
    if latency_ns.is_none() {
        tally.add(counter::UNMATCHED);
    }
    let op = rq.read::<u32>(offset!(rq_cmd_flags)).unwrap_or(0) & OP_MASK;
    judge(tally, Done { rq, error, bytes, op, dev: device(rq).unwrap_or(0), latency_ns });
    Some(())
}

/// The error argument: a one-byte `blk_status_t` on newer kernels, an errno on older ones.
#[inline(always)]
fn raw_error(value: u64) -> i32 {
    if offset!(arg_error_is_status) == 1 { (value & 0xff) as i32 } else { value as i32 }
}

#[inline(always)]
fn take_issue_time(rq: Ptr) -> Option<u64> {
    let key = rq.address();
    // SAFETY: the value is copied at once; a request cannot complete twice at the same time.
    let issued = unsafe { maps::INFLIGHT.get(&key) }.copied()?;
    let _ = maps::INFLIGHT.remove(&key);
    Some(issued)
}

/// Device number of the whole disk: `rq->rq_disk` up to 5.16, `rq->q->disk` after.
#[inline(always)]
fn device(rq: Ptr) -> Option<u32> {
    let disk = match rq.follow(offset!(rq_disk)) {
        Some(disk) => disk,
        None => rq.follow(offset!(rq_queue))?.follow(offset!(queue_disk))?,
    };
    let major: u32 = disk.read(offset!(disk_major))?;
    let minor: u32 = disk.read(offset!(disk_first_minor))?;
    Some(major << 20 | minor)
}

#[inline(always)]
fn judge(tally: Tally, done: Done) {
    let Some(tunables) = tunables() else { return };
    let (slot, outlier_ns) = device_entry(done.dev).unwrap_or((0, tunables.outlier_ns));
    if let Some(latency) = done.latency_ns {
        count(slot, done.op, latency);
    }
    if done.error == 0 && done.latency_ns.unwrap_or(0) < outlier_ns {
        tally.filtered();
        return;
    }
    if !tally.admit(done.dev as u64, tunables.block_limit) {
        return;
    }
    if done.error == 0 {
        let record = record(tally, &done);
        tally.submit(&maps::BULK, record);
    } else if tally.critical_has_room() {
        let record = record(tally, &done);
        tally.submit(&maps::CRITICAL, record);
    }
}

/// Histogram slot and threshold of a device that user space has entered.
#[inline(always)]
fn device_entry(dev: u32) -> Option<(u32, u64)> {
    for probe in 0..DEVICE_PROBES {
        let entry: &DeviceEntry = maps::DEVICES.get(device_position(dev, probe))?;
        if entry.key == 0 {
            return None;
        }
        if entry.dev() == dev {
            return Some((entry.slot(), entry.outlier_ns));
        }
    }
    None
}

#[inline(always)]
fn count(slot: u32, op: u32, latency_ns: u64) {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { aya_ebpf::helpers::bpf_get_smp_processor_id() };
    let row = hist::row(cpu, slot, hist::op_class(op));
    let bucket = opaque(hist::bucket(latency_ns) as u64);
    if bucket < hist::USED as u64
        && let Some(row) = maps::BLOCK_HIST.get_ptr_mut(row)
    {
        // SAFETY: a live element and a checked index.
        atomic_add(unsafe { (&raw mut (*row).counts).cast::<u64>().add(bucket as usize) });
    }
}

/// Hides a value's origin from LLVM, which else drops a bound it can prove and the verifier cannot.
#[inline(always)]
fn opaque(mut value: u64) -> u64 {
    // SAFETY: a move of a register to itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) value) };
    value
}

#[inline(always)]
fn record(tally: Tally, done: &Done) -> BlockIo {
    let mut missing = const { BlockIo::bit("cgroup_id") };
    let sector = or_missing(done.rq.read(offset!(rq_sector)), &mut missing, const { BlockIo::bit("sector") });
    let mut flags = if offset!(arg_error_is_status) == 1 { FLAG_BLK_STATUS } else { 0 };
    if done.latency_ns.is_none() {
        flags |= FLAG_NO_LATENCY;
        missing |= const { BlockIo::bit("latency_ns") };
    }
    BlockIo {
        latency_ns: done.latency_ns.unwrap_or(0),
        sector,
        dev: done.dev,
        bytes: done.bytes,
        error: done.error,
        op: done.op,
        header: tally.header::<BlockIo>(0, missing, flags),
    }
}
