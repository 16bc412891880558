//! The only place that reads a clock. Out: CLOCK_MONOTONIC in ns (the kernel's `bpf_ktime_get_ns`), and the
//! anchor that turns it into wall time. The engine never calls this: its time is in its inputs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::source::recording::ClockAnchor;

/// CLOCK_MONOTONIC, ns; 0 on a system without that clock, which Linux is not.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |t| t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs())
}

/// Both clocks at one moment.
pub fn anchor() -> ClockAnchor {
    ClockAnchor { monotonic_ns: monotonic_ns(), realtime_ns: read(ClockId::CLOCK_REALTIME) }
}

/// RFC 3339 in UTC with nanoseconds, of a monotonic time seen through an anchor.
pub fn rfc3339(anchor: &ClockAnchor, monotonic_ns: u64) -> humantime::Rfc3339Timestamp {
    let since = i128::from(monotonic_ns) - i128::from(anchor.monotonic_ns);
    let wall = (i128::from(anchor.realtime_ns) + since).clamp(0, i128::from(MAX_NS)) as u64;
    humantime::format_rfc3339_nanos(wall_time(wall))
}

/// End of the year 2500; a damaged anchor must not make the formatter fail.
const MAX_NS: u64 = 16_725_225_600_000_000_000;

fn wall_time(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_follows_the_anchor() {
        let anchor = ClockAnchor { monotonic_ns: 1_000, realtime_ns: 1_700_000_000_000_000_000 };
        assert_eq!(rfc3339(&anchor, 1_001).to_string(), "2023-11-14T22:13:20.000000001Z");
        assert_eq!(rfc3339(&anchor, 0).to_string(), "2023-11-14T22:13:19.999999000Z");
    }

    #[test]
    fn absurd_anchors_do_not_fail() {
        let anchor = ClockAnchor { monotonic_ns: 0, realtime_ns: u64::MAX };
        assert!(
            rfc3339(&anchor, u64::MAX).to_string().starts_with("2499")
                || rfc3339(&anchor, 5).to_string().starts_with("2500")
        );
    }
}
