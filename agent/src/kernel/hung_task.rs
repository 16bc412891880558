//! The hung-task check. In: its two settings. Out: how often the kernel tells of a task that hangs.
//!
//! Source: Documentation/admin-guide/sysctl/kernel.rst, hung_task_timeout_secs and hung_task_check_interval_secs (0: as the
//! timeout). A timeout of 0 switches it off.

use super::Root;

const TIMEOUT: &str = "/proc/sys/kernel/hung_task_timeout_secs";
const INTERVAL: &str = "/proc/sys/kernel/hung_task_check_interval_secs";

/// Time between two reports of the same task, ns; `None` where the kernel does not look or does not tell.
pub fn check_every_ns(root: &Root) -> Option<u64> {
    let seconds = |path: &str| root.read_trimmed(path).ok()?.parse::<u64>().ok();
    let timeout = seconds(TIMEOUT).filter(|timeout| *timeout > 0)?;
    let interval = seconds(INTERVAL).unwrap_or(0);
    Some(timeout.max(interval).saturating_mul(1_000_000_000))
}
