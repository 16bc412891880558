//! The only way out: every event a sensor sees ends in exactly one counter, and at most one ring record.
//!
//! `seen = submitted + filtered + limited + ring_full`. Counters are relaxed atomic adds whose result is not
//! used: plain `+=` loses updates when programs nest, and a used result needs BPF_FETCH, which 5.10 lacks.

use core::arch::asm;

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    maps::RingBuf,
};
use faultline_common::{
    counter::{self, COUNTERS},
    event::Header,
    limit::Window,
    tunable::{LIMIT_WINDOW_NS, Tunables},
};

use crate::maps::{self, offset};

/// `BPF_RB_AVAIL_DATA` of include/uapi/linux/bpf.h: bytes not yet consumed.
const AVAIL_DATA: u64 = 0;

/// The counters of one sensor on this CPU.
#[derive(Clone, Copy)]
pub struct Tally {
    counters: *mut [u64; COUNTERS],
    sensor: u16,
    cpu: u32,
}

impl Tally {
    /// Finds the counters and counts the event as seen.
    #[inline(always)]
    pub fn seen(sensor: u16) -> Option<Self> {
        let tally = Self::here(sensor)?;
        tally.add(counter::SEEN);
        Some(tally)
    }

    /// Finds the counters without counting, for bookkeeping programs.
    #[inline(always)]
    pub fn here(sensor: u16) -> Option<Self> {
        // SAFETY: a helper without arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let slice = maps::COUNTERS.get_ptr_mut(cpu)?;
        // SAFETY: a live element of the array; the sensor number is a constant below SENSORS.
        let counters = unsafe { &raw mut (*slice).values[sensor as usize] };
        Some(Self { counters, sensor, cpu })
    }

    /// Counts one exit of the sensor.
    #[inline(always)]
    pub fn add(self, which: usize) {
        // SAFETY: `counters` points into a live array element and `which` is a constant below COUNTERS.
        atomic_add(unsafe { &raw mut (*self.counters)[which] });
    }

    /// The event was looked at and is not interesting.
    #[inline(always)]
    pub fn filtered(self) {
        self.add(counter::FILTERED);
    }

    /// A record header for this sensor, stamped now.
    #[inline(always)]
    pub fn header<T>(self, cgroup_id: u64, missing: u64, flags: u16) -> Header {
        Header {
            ktime_ns: now(),
            cgroup_id,
            missing,
            sensor: self.sensor,
            flags,
            cpu: self.cpu,
            len: size_of::<T>() as u32,
            pad: 0,
        }
    }

    /// Hands a record to a ring, or counts that it was full.
    #[inline(always)]
    pub fn submit<T: 'static>(self, ring: &RingBuf, record: T) {
        match ring.reserve::<T>(0) {
            Some(mut entry) => {
                entry.write(record);
                entry.submit(0);
                self.add(counter::SUBMITTED);
            }
            None => self.add(counter::RING_FULL),
        }
    }

    /// Whether one more record of `key` is within `limit` per second; counts it as limited if not.
    #[inline(always)]
    pub fn admit(self, key: u64, limit: u64) -> bool {
        let admitted = admit(key ^ (self.sensor as u64) << 56, limit);
        if !admitted {
            self.add(counter::LIMITED);
        }
        admitted
    }

    /// As [`Self::admit`] for a sensor that samples: how many of `key` were refused since the last record, plus one; 0:
    /// refused, too.
    #[inline(always)]
    pub fn sample(self, key: u64, limit: u64) -> u64 {
        let key = key ^ (self.sensor as u64) << 56;
        let at = now();
        let Some(window) = maps::LIMITS.get_ptr_mut(&key) else {
            let _ = maps::LIMITS.insert(&key, &Window { start_ns: at, count: 1 }, 0);
            return 1;
        };
        // SAFETY: a live element. Two CPUs may race on it: the sample is then off by one, the counters are not.
        match unsafe { (*window).sample(at, limit, LIMIT_WINDOW_NS) } {
            Some(refused) => refused + 1,
            None => {
                self.add(counter::LIMITED);
                0
            }
        }
    }

    /// Whether the critical ring is less than three quarters full: its last quarter is kept for events that
    /// cannot come in floods. Counts the event as limited if not.
    #[inline(always)]
    pub fn critical_has_room(self) -> bool {
        let room = maps::CRITICAL.query(AVAIL_DATA) < (offset!(critical_bytes) / 4 * 3) as u64;
        if !room {
            self.add(counter::LIMITED);
        }
        room
    }
}

#[inline(always)]
fn admit(key: u64, limit: u64) -> bool {
    let at = now();
    if let Some(window) = maps::LIMITS.get_ptr_mut(&key) {
        // SAFETY: a live element. Two CPUs may race on it: the limit is then off by one, the counters are not.
        return unsafe { (*window).admit(at, limit, LIMIT_WINDOW_NS) };
    }
    let first = Window { start_ns: at, count: 1 };
    // A failed insert (no free node on this CPU) admits: better one record too many than one fault too few.
    let _ = maps::LIMITS.insert(&key, &first, 0);
    limit > 0
}

/// The tunables; `None` cannot happen for a one-element array, but the verifier wants it said.
#[inline(always)]
pub fn tunables() -> Option<&'static Tunables> {
    maps::TUNABLES.get(0)
}

/// Adds 1 atomically and does not ask for the old value. `core`'s atomics have no read-modify-write on BPF
/// (no compare-and-swap before v5.12), so this is the one instruction, spelt out.
#[inline(always)]
pub fn atomic_add(cell: *mut u64) {
    // SAFETY: the callers hand over aligned cells of live map elements; the verifier checks it again.
    unsafe { asm!("lock *(u64 *)({cell} + 0) += {one}", cell = in(reg) cell, one = in(reg) 1u64) };
}

/// CLOCK_MONOTONIC, ns.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
