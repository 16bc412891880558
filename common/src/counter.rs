//! Per-sensor, per-CPU counters: one [`CounterSlice`] per possible CPU in a memory-mapped array.
//!
//! `seen = submitted + filtered + limited + ring_full` holds for each sensor once its programs are detached;
//! user space adds `submitted = decoded + malformed + in flight` and thereby knows of every lost record.

use crate::sensor::SENSORS;

/// Events that reached the sensor.
pub const SEEN: usize = 0;
/// Records handed to a ring.
pub const SUBMITTED: usize = 1;
/// Events that were looked at and held to be uninteresting (a good exit, a fast I/O).
pub const FILTERED: usize = 2;
/// Events refused by a rate limit or by the guard of the critical ring.
pub const LIMITED: usize = 3;
/// Events for which the ring had no room.
pub const RING_FULL: usize = 4;
/// Failed inserts into a sensor's bookkeeping map (`block_io`: requests that will complete unmatched).
pub const INSERT_FAILED: usize = 5;
/// Completions without a known start (`block_io`: issued before attach, or its insert failed).
pub const UNMATCHED: usize = 6;
/// Counters of one sensor, padded to a cache line.
pub const COUNTERS: usize = 8;

/// One CPU's counters, `[sensor][counter]`; 512 bytes, so that no two CPUs share a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct CounterSlice {
    /// Indexed by sensor number, then by the constants of this module.
    pub values: [[u64; COUNTERS]; SENSORS],
}

const _: () = assert!(size_of::<CounterSlice>() == 512);
