//! In: `/proc/self/status`. Out: the powers this process has, and in words what each missing one costs.
//!
//! Effective bits only: what counts is what the next system call may do. Numbers from
//! `include/uapi/linux/capability.h`; they never change.

use super::{FactError, Root};

const STATUS: &str = "/proc/self/status";

/// A capability that the agent knows a use for. The value is the kernel's bit number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Read files and search directories of others.
    DacReadSearch = 2,
    /// Signal processes of others.
    Kill = 5,
    /// Change networks.
    NetAdmin = 12,
    /// Lock memory beyond the limit.
    IpcLock = 14,
    /// Mounts, namespaces, loop devices, and all that has no capability of its own.
    SysAdmin = 21,
    /// Real-time scheduling.
    SysNice = 23,
    /// Exceed limits.
    SysResource = 24,
    /// Trace.
    Perfmon = 38,
    /// Load eBPF.
    Bpf = 39,
}

/// Effective capabilities, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// Reads the effective set of this process (of the fixture, in tests).
    ///
    /// # Errors
    /// When the file is absent or has no readable `CapEff` line.
    pub fn gather(root: &Root) -> Result<Self, FactError> {
        let status = root.read_trimmed(STATUS)?;
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        bits.map(Self)
            .ok_or_else(|| root.malformed(STATUS, "a line `CapEff:` with a hexadecimal set", line.unwrap_or("")))
    }

    /// Whether this one is granted.
    pub fn has(self, capability: Capability) -> bool {
        self.0 >> (capability as u8) & 1 == 1
    }

    /// Name and cost of every capability that the agent could use and does not have, heaviest loss first.
    ///
    /// CAP_SYS_ADMIN stands in for CAP_BPF and CAP_PERFMON (`bpf_capable()`, `perfmon_capable()` in
    /// `include/linux/capability.h`), so these cost nothing while it is there.
    pub fn missing_for_agent(self) -> Vec<(&'static str, &'static str)> {
        let covered = |capability| {
            let by_admin = matches!(capability, Capability::Bpf | Capability::Perfmon);
            self.has(capability) || by_admin && self.has(Capability::SysAdmin)
        };
        COSTS.iter().filter(|(capability, ..)| !covered(*capability)).map(|&(_, name, cost)| (name, cost)).collect()
    }
}

/// What the agent loses without each, in the order in which a reader cares.
const COSTS: &[(Capability, &str, &str)] = &[
    (Capability::Bpf, "CAP_BPF", "no eBPF program or map can be created: no kernel sensor runs"),
    (Capability::Perfmon, "CAP_PERFMON", "tracing programs may not load or read kernel memory: no kernel sensor runs"),
    (
        Capability::SysAdmin,
        "CAP_SYS_ADMIN",
        "tracefs cannot be mounted where it is missing, and the disk and net drills cannot run",
    ),
    (
        Capability::Kill,
        "CAP_KILL",
        "in mode act, processes of other users cannot be killed where the kernel has no cgroup.kill",
    ),
    (Capability::NetAdmin, "CAP_NET_ADMIN", "the net drill cannot make its network or attach its XDP program"),
    (
        Capability::SysResource,
        "CAP_SYS_RESOURCE",
        "resource limits cannot be raised (before Linux 5.11 they also bound the maps), and the agent's own OOM score \
         cannot be lowered",
    ),
    (
        Capability::IpcLock,
        "CAP_IPC_LOCK",
        "memory is locked only up to RLIMIT_MEMLOCK: the agent may be paged out just when memory is short",
    ),
    (
        Capability::SysNice,
        "CAP_SYS_NICE",
        "the reactor gets no real-time priority: reaction times grow while the CPUs are busy",
    ),
    (
        Capability::DacReadSearch,
        "CAP_DAC_READ_SEARCH",
        "files of other users stay closed once the agent is not root: tracefs (mode 0700) is unreadable then",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn names(bits: u64) -> Vec<&'static str> {
        CapabilitySet(bits).missing_for_agent().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_root_without_sys_resource_misses_only_that() {
        let status = "Name:\tcat\nCapPrm:\t0000000000000000\nCapEff:\t000001fffeffffff\n";
        let fixture = Fixture::new().file("/proc/self/status", status);
        let set = CapabilitySet::gather(fixture.root()).expect("CapEff is there");
        assert!(set.has(Capability::Bpf) && !set.has(Capability::SysResource));
        assert_eq!(names(set.0), ["CAP_SYS_RESOURCE"]);
    }

    #[test]
    fn sys_admin_covers_bpf_and_perfmon() {
        assert!(!names(1 << 21).contains(&"CAP_BPF") && !names(1 << 21).contains(&"CAP_PERFMON"));
        assert!(names(1 << 39 | 1 << 38).contains(&"CAP_SYS_ADMIN"));
        assert_eq!(names(0).len(), COSTS.len());
        assert_eq!(names(0)[0], "CAP_BPF");
        assert!(names(u64::MAX).is_empty());
    }

    #[test]
    fn an_unreadable_set_is_an_error_that_names_the_file() {
        for status in ["Name:\tx\n", "CapEff:\tzz\n"] {
            let fixture = Fixture::new().file("/proc/self/status", status);
            let error = CapabilitySet::gather(fixture.root()).expect_err("no set");
            assert!(error.to_string().contains("/proc/self/status"), "{error}");
        }
    }
}
