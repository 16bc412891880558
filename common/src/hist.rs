//! Log-linear latency histogram: 8 steps per octave from 1.024 µs to about 137 s, 12.5 % wide buckets.
//!
//! In: nanoseconds. Out: a bucket index, and back: the bucket's upper bound. The kernel counts, the agent
//! reads quantiles; both use this file, so they cannot disagree.

/// Steps in each octave.
pub const STEPS: u32 = 8;
/// Values below 2^FIRST ns share bucket 0.
const FIRST: u32 = 10;
/// Octaves covered above 2^FIRST ns.
const OCTAVES: u32 = 27;
/// Number of buckets used.
pub const USED: usize = (1 + OCTAVES * STEPS) as usize;
/// Buckets in memory: a multiple of 16, so that rows stay cache-line aligned.
pub const BUCKETS: usize = 224;

/// Device slots; slot 0 collects devices that have none of their own.
pub const DEVICE_SLOTS: u32 = 32;
/// Operation classes: read, write, other.
pub const OPS: u32 = 3;

/// One row: the counts of one CPU, device slot and operation class.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Row {
    /// Counts by bucket.
    pub counts: [u64; BUCKETS],
}

/// Bucket of a latency in ns.
pub const fn bucket(ns: u64) -> usize {
    if ns < 1 << FIRST {
        return 0;
    }
    let octave = 63 - ns.leading_zeros();
    if octave >= FIRST + OCTAVES {
        return USED - 1;
    }
    let step = (ns >> (octave - 3)) as u32 & (STEPS - 1);
    (1 + (octave - FIRST) * STEPS + step) as usize
}

/// Exclusive upper bound in ns of a bucket.
pub const fn upper_bound(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1 << FIRST;
    }
    let step = (bucket as u64 - 1) % STEPS as u64;
    let octave = (bucket as u64 - 1) / STEPS as u64 + FIRST as u64;
    (STEPS as u64 + step + 1) << (octave - 3)
}

/// Row index of one CPU, device slot and operation class.
pub const fn row(cpu: u32, slot: u32, op_class: u32) -> u32 {
    (cpu * DEVICE_SLOTS + slot) * OPS + op_class
}

/// The operation class of what is neither a read nor a write.
pub const OTHER: u32 = 2;

/// Operation class of a `REQ_OP_*`: 0 read, 1 write, 2 anything else.
pub const fn op_class(op: u32) -> u32 {
    if op < OTHER { op } else { OTHER }
}

/// The latency in ns below which a share of `permille` of the counted I/Os stayed (upper bound of its bucket).
pub fn quantile(counts: &[u64; BUCKETS], permille: u64) -> u64 {
    let total: u64 = counts.iter().sum();
    let rank = (total * permille).div_ceil(1000).max(1);
    let mut below = 0;
    for (index, count) in counts.iter().enumerate() {
        below += count;
        if below >= rank {
            return upper_bound(index);
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(ns in 0u64..(1 << 37)) {
            let index = bucket(ns);
            prop_assert!(ns < upper_bound(index));
            prop_assert!(index == 0 || ns >= upper_bound(index - 1));
            prop_assert!(index < USED);
        }

        #[test]
        fn a_bucket_is_at_most_an_eighth_wide(ns in 1024u64..(1 << 37)) {
            let upper = upper_bound(bucket(ns)) as f64;
            prop_assert!(upper / ns as f64 <= 1.125 + 1e-9);
        }
    }

    #[test]
    fn huge_values_saturate() {
        assert_eq!(bucket(u64::MAX), USED - 1);
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut counts = [0; BUCKETS];
        assert_eq!(quantile(&counts, 990), 0);
        counts[bucket(1_000_000)] = 99;
        counts[bucket(50_000_000)] = 1;
        assert_eq!(quantile(&counts, 990), upper_bound(bucket(1_000_000)));
        assert_eq!(quantile(&counts, 999), upper_bound(bucket(50_000_000)));
    }
}
