//! In: a file system root (`/`, or a fixture). Out: the facts of this kernel, by which the agent knows what it can do.
//!
//! Nothing here asks for a version. Distributions backport, so presence is read from the running kernel: BTF, tracefs
//! `format` files, sysctls, mounts. Every read goes through [`Root`], which makes each kernel's answers a fixture.
//!
//! [`KernelFacts::gather`] never fails as a whole: a fact that cannot be had is unknown, with its reason in
//! [`KernelFacts::unknown`]. BTF is not kept among the facts: it is 7 MB, asked at start and then dropped.

use std::io;
use std::path::{Path, PathBuf};

pub mod btf;
pub mod capabilities;
pub mod cgroup;
pub mod devices;
pub mod drops;
#[cfg(test)]
mod fixture;
pub mod hung_task;
pub mod mounts;
#[cfg(test)]
mod tests;
pub mod tracefs;

pub use btf::{Bitfield, Btf, BtfError, MemberOffset, ParamType};
pub use capabilities::{Capability, CapabilitySet};
pub use cgroup::{CgroupLayout, CgroupVersion, Hierarchy, Purpose, path_in};
pub use devices::{BlockDevice, DeviceError, DeviceKind};
pub use tracefs::{TraceError, TraceField, TraceFormat};

const OSRELEASE: &str = "/proc/sys/kernel/osrelease";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
const UNPRIVILEGED_BPF: &str = "/proc/sys/kernel/unprivileged_bpf_disabled";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const LSM: &str = "/sys/kernel/security/lsm";
const PID_NS: &str = "/proc/self/ns/pid";

/// Inode of the first pid namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`): fixed, so that a process can
/// tell without seeing the host's PID 1 whether it is in it.
const HOST_PID_NS: &str = "pid:[4026531836]";

/// Where the kernel's files are read: `/` live, a directory in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

impl Root {
    /// The running machine.
    pub fn live() -> Self {
        Self(PathBuf::from("/"))
    }

    /// A directory that holds `proc/`, `sys/`, ... as files.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Whether this is the running machine.
    pub fn is_live(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// An absolute path of the machine, as a path for `std::fs`.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.0.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// Bytes of a file.
    ///
    /// # Errors
    /// [`FactError::Read`] naming it.
    pub fn read(&self, absolute: &str) -> Result<Vec<u8>, FactError> {
        let path = self.path(absolute);
        std::fs::read(&path).map_err(|source| FactError::Read { path, source })
    }

    /// Text of a file without surrounding white space; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// [`FactError::Read`] naming it.
    pub fn read_trimmed(&self, absolute: &str) -> Result<String, FactError> {
        Ok(String::from_utf8_lossy(&self.read(absolute)?).trim().to_owned())
    }

    fn malformed(&self, absolute: &str, expected: &'static str, found: &str) -> FactError {
        FactError::Malformed { path: self.path(absolute), expected, found: found.chars().take(80).collect() }
    }
}

/// Why a fact is unknown.
#[derive(Debug, thiserror::Error)]
pub enum FactError {
    /// Its file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// File or link.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its file says something unexpected.
    #[error("{} holds {found:?}, expected {expected}", path.display())]
    Malformed {
        /// File or link.
        path: PathBuf,
        /// Form that was expected.
        expected: &'static str,
        /// First characters of what it holds.
        found: String,
    },
    /// No tracefs is mounted.
    #[error(transparent)]
    Tracefs(#[from] TraceError),
}

/// Kernel lockdown mode: what even root may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockdown {
    /// Off.
    None,
    /// The kernel cannot be modified; tracing works.
    Integrity,
    /// Kernel memory cannot be read either: tracing programs that read it do not load.
    Confidentiality,
    /// Not stated (securityfs is not mounted).
    Unknown,
}

/// Which pid namespace this process is in. In a nested one the pids of events are not those it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// The first one.
    Host,
    /// A container's.
    Nested,
    /// Not stated (no `/proc`).
    Unknown,
}

/// A fact that could not be had.
#[derive(Debug)]
pub struct UnknownFact {
    /// Name of the field in [`KernelFacts`].
    pub fact: &'static str,
    /// Why.
    pub error: FactError,
}

/// What the running kernel is and allows.
#[derive(Debug)]
pub struct KernelFacts {
    /// `uname -r`; empty if unknown.
    pub release: String,
    /// Random id of this boot; empty if unknown.
    pub boot_id: String,
    /// Highest possible CPU id plus one (`nr_cpu_ids`), the number of slices an array indexed by CPU needs. Larger
    /// than the count of CPUs where ids have gaps. 0 if unknown: refuse to size anything by it.
    pub possible_cpus: u32,
    /// Bytes of a memory page.
    pub page_size: u32,
    /// Lockdown mode.
    pub lockdown: Lockdown,
    /// Pid namespace of this process.
    pub pid_namespace: PidNamespace,
    /// Effective capabilities; none if unknown.
    pub capabilities: CapabilitySet,
    /// The sysctl: 0 allowed, 1 refused for good, 2 refused. `None` when it is absent or unreadable.
    pub unprivileged_bpf_disabled: Option<u8>,
    /// Where tracefs is mounted, ready for `std::fs`.
    pub tracefs: Option<PathBuf>,
    /// Bytes of the kernel's BTF; `None` without. [`Btf::load`] reads it.
    pub btf_bytes: Option<u64>,
    /// Cgroup hierarchies; empty if unknown.
    pub cgroups: CgroupLayout,
    /// What could not be had and why, in the order of the fields.
    pub unknown: Vec<UnknownFact>,
}

impl KernelFacts {
    /// Reads all facts under `root`. The page size alone is this process's own: no plain file states it.
    pub fn gather(root: &Root) -> Self {
        let mut unknown = Unknown::default();
        Self {
            release: unknown.or("release", root.read_trimmed(OSRELEASE), String::new()),
            boot_id: unknown.or("boot_id", root.read_trimmed(BOOT_ID), String::new()),
            possible_cpus: unknown.or("possible_cpus", possible_cpus(root), 0),
            page_size: u32::try_from(procfs::page_size()).unwrap_or(4096),
            lockdown: unknown.or("lockdown", lockdown(root), Lockdown::Unknown),
            pid_namespace: unknown.or("pid_namespace", pid_namespace(root), PidNamespace::Unknown),
            capabilities: unknown.or("capabilities", CapabilitySet::gather(root), CapabilitySet::default()),
            unprivileged_bpf_disabled: unknown.or("unprivileged_bpf_disabled", unprivileged_bpf(root).map(Some), None),
            tracefs: unknown.or("tracefs", tracefs::find(root).ok_or(TraceError::NotMounted.into()).map(Some), None),
            btf_bytes: unknown.or("btf_bytes", btf_bytes(root).map(Some), None),
            cgroups: unknown.or("cgroups", CgroupLayout::gather(root), CgroupLayout::default()),
            unknown: unknown.0,
        }
    }

    /// Why this fact is unknown; `None` when it is known.
    pub fn why_unknown(&self, fact: &str) -> Option<&FactError> {
        self.unknown.iter().find(|entry| entry.fact == fact).map(|entry| &entry.error)
    }
}

/// Collects reasons while facts are read.
#[derive(Default)]
struct Unknown(Vec<UnknownFact>);

impl Unknown {
    fn or<T>(&mut self, fact: &'static str, read: Result<T, FactError>, unknown: T) -> T {
        read.unwrap_or_else(|error| {
            self.0.push(UnknownFact { fact, error });
            unknown
        })
    }
}

/// The end of a list such as `0-3,8-11`, plus one.
fn possible_cpus(root: &Root) -> Result<u32, FactError> {
    let text = root.read_trimmed(POSSIBLE)?;
    let highest = text.rsplit([',', '-']).next().and_then(|number| number.parse::<u32>().ok());
    highest
        .and_then(|id| id.checked_add(1))
        .ok_or_else(|| root.malformed(POSSIBLE, "a list of CPU ids such as 0-3", &text))
}

/// The mode in brackets. Without the file but with securityfs, the kernel has no lockdown at all.
fn lockdown(root: &Root) -> Result<Lockdown, FactError> {
    let text = match root.read_trimmed(LOCKDOWN) {
        Ok(text) => text,
        Err(error) => {
            let lsms = root.read_trimmed(LSM).unwrap_or_default();
            let absent = !lsms.is_empty() && lsms.split(',').all(|lsm| lsm != "lockdown");
            return if absent { Ok(Lockdown::None) } else { Err(error) };
        }
    };
    match text.split(['[', ']']).nth(1) {
        Some("none") => Ok(Lockdown::None),
        Some("integrity") => Ok(Lockdown::Integrity),
        Some("confidentiality") => Ok(Lockdown::Confidentiality),
        _ => Err(root.malformed(LOCKDOWN, "[none], [integrity] or [confidentiality]", &text)),
    }
}

fn pid_namespace(root: &Root) -> Result<PidNamespace, FactError> {
    let path = root.path(PID_NS);
    let link = std::fs::read_link(&path).map_err(|source| FactError::Read { path, source })?;
    Ok(if link == Path::new(HOST_PID_NS) { PidNamespace::Host } else { PidNamespace::Nested })
}

fn unprivileged_bpf(root: &Root) -> Result<u8, FactError> {
    let text = root.read_trimmed(UNPRIVILEGED_BPF)?;
    text.parse().map_err(|_| root.malformed(UNPRIVILEGED_BPF, "0, 1 or 2", &text))
}

fn btf_bytes(root: &Root) -> Result<u64, FactError> {
    let path = root.path(btf::VMLINUX);
    std::fs::metadata(&path).map(|meta| meta.len()).map_err(|source| FactError::Read { path, source })
}
