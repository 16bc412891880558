//! All maps of the object. Sizes that depend on the machine (CPUs) are set by the loader with
//! `map_max_entries`; mapped arrays carry BPF_F_MMAPABLE so that the agent reads them without system calls.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use faultline_common::{
    counter::CounterSlice,
    hist::{DEVICE_SLOTS, OPS, Row},
    limit::Window,
    offsets::Offsets,
    tunable::{DEVICE_ENTRIES, DeviceEntry, Tunables},
};

/// `BPF_F_MMAPABLE` of include/uapi/linux/bpf.h.
const MMAPABLE: u32 = 1 << 10;

/// Faults that must not be pushed out by anything: OOM kills, crashes, hangs, I/O errors.
#[map]
pub static CRITICAL: RingBuf = RingBuf::with_byte_size(1 << 19, 0);

/// Everything that can come in floods: retransmits, connects, resets, drops, latency outliers.
#[map]
pub static BULK: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// One [`CounterSlice`] per possible CPU.
#[map]
pub static COUNTERS: Array<CounterSlice> = Array::with_max_entries(1, MMAPABLE);

/// Histogram rows, `DEVICE_SLOTS * OPS` per possible CPU.
#[map]
pub static BLOCK_HIST: Array<Row> = Array::with_max_entries(DEVICE_SLOTS * OPS, MMAPABLE);

/// Element 0: what user space may turn.
#[map]
pub static TUNABLES: Array<Tunables> = Array::with_max_entries(1, MMAPABLE);

/// Device number to histogram slot and outlier threshold.
#[map]
pub static DEVICES: Array<DeviceEntry> = Array::with_max_entries(DEVICE_ENTRIES, MMAPABLE);

/// Requests in flight: address of the request to its issue time. Preallocated and never LRU: evicting a slow
/// request would hide just what we look for. Failed inserts are counted.
#[map]
pub static INFLIGHT: HashMap<u64, u64> = HashMap::with_max_entries(8192, 0);

/// Connects in progress: address of the socket to the time of its first SYN. Preallocated and never LRU, like
/// [`INFLIGHT`] and for the same reason.
#[map]
pub static CONNECTS: HashMap<u64, u64> = HashMap::with_max_entries(8192, 0);

/// Rate windows by flow, device or executable.
#[map]
pub static LIMITS: LruHashMap<u64, Window> = LruHashMap::with_max_entries(4096, 0);

/// Thread groups already reported, by (start time, tgid): needed where the kernel has no `group_dead`.
#[map]
pub static REPORTED: LruHashMap<[u64; 2], u8> = LruHashMap::with_max_entries(4096, 0);

/// Kernel field offsets, overwritten by the loader before load.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

/// Reads one offset as the constant that the verifier sees.
macro_rules! offset {
    ($name:ident) => {
        // SAFETY: a read-only global of this object; volatile, because the loader replaces its initial value.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::OFFSETS.$name) }
    };
}
pub(crate) use offset;
