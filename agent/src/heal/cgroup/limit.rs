//! New limits. In: what is asked and what the cgroup uses and is allowed now; out: the value to write, in the kernel's
//! spelling. Pure. A limit only ever becomes tighter: what was lower already stays.

use super::knob::Knob;

/// All memory limits are whole pages; a value that is not would not read back as written.
const PAGE: u64 = 4096;
/// Smallest quota the kernel takes, µs (kernel/sched/core.c, `min_cfs_quota_period`).
const MIN_QUOTA_US: u64 = 1000;

/// `memory.high` or `memory.limit_in_bytes`: `percent` of `usage` bytes, in whole pages of `page` bytes.
///
/// v1 has no high mark, only a hard limit: below the usage, writing it fails or kills, so there it is never less than
/// the usage and only stops growth.
pub(super) fn memory(knob: Knob, percent: u8, usage: u64, old: &str, page: u64) -> String {
    let page = page.max(PAGE);
    let asked = u128::from(usage) * u128::from(percent.clamp(1, 100)) / 100;
    let asked = u64::try_from(asked).unwrap_or(usage);
    let bytes = match knob {
        Knob::MemoryLimit => usage.max(asked).div_ceil(page).saturating_mul(page),
        _ => (asked / page).max(1) * page,
    };
    match old.parse::<u64>() {
        Ok(now) if now <= bytes => old.to_owned(),
        _ => bytes.to_string(),
    }
}

/// `cpu.max`: `permille` thousandths of a CPU, with the period as it is. `None` when `old` is not what the kernel writes.
pub(super) fn cpu_max(permille: u32, old: &str) -> Option<String> {
    let (quota, period) = old.split_once(' ')?;
    let wanted = quota_us(permille, period.parse().ok()?);
    match quota.parse::<u64>() {
        Ok(now) if now <= wanted => Some(old.to_owned()),
        _ => Some(format!("{wanted} {period}")),
    }
}

/// `cpu.cfs_quota_us` for a period in µs; -1 in `old` means no limit.
pub(super) fn cpu_quota(permille: u32, period_us: u64, old: &str) -> String {
    let wanted = quota_us(permille, period_us);
    match old.parse::<u64>() {
        Ok(now) if now <= wanted => old.to_owned(),
        _ => wanted.to_string(),
    }
}

fn quota_us(permille: u32, period_us: u64) -> u64 {
    (u64::from(permille).saturating_mul(period_us) / 1000).max(MIN_QUOTA_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_whole_pages_and_never_loosened() {
        assert_eq!(memory(Knob::MemoryHigh, 50, 1_000_000, "max", 4096), "499712");
        assert_eq!(memory(Knob::MemoryHigh, 50, 1_000_000, "4096", 4096), "4096", "tighter already");
        assert_eq!(memory(Knob::MemoryHigh, 1, 4096, "max", 4096), "4096", "never zero");
        assert_eq!(memory(Knob::MemoryHigh, 100, 1 << 20, "max", 65536), "1048576");
    }

    #[test]
    fn v1_memory_is_never_below_the_usage() {
        assert_eq!(memory(Knob::MemoryLimit, 50, 1_000_000, "9223372036854771712", 4096), "1003520");
        assert_eq!(memory(Knob::MemoryLimit, 100, u64::MAX, "9223372036854771712", 4096), "9223372036854771712");
    }

    #[test]
    fn cpu_keeps_its_period() {
        assert_eq!(cpu_max(250, "max 100000").as_deref(), Some("25000 100000"));
        assert_eq!(cpu_max(250, "10000 100000").as_deref(), Some("10000 100000"), "tighter already");
        assert_eq!(cpu_max(10, "max 50000").as_deref(), Some("1000 50000"), "the kernel's least");
        assert_eq!(cpu_max(10, "max"), None);
        assert_eq!(cpu_quota(1500, 100_000, "-1"), "150000");
        assert_eq!(cpu_quota(1500, 100_000, "20000"), "20000");
    }
}
