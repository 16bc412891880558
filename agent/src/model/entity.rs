//! Entity: what is ill. A small `Copy` key; its printable name is looked up by `export` in tables that arrive
//! as inputs, so that the engine never touches a string and replay prints the same names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use faultline_common::event::COMM_LEN;

/// A thing that can be ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Entity {
    /// All processes of one name (`comm`).
    Executable([u8; COMM_LEN]),
    /// One process by pid, where the kernel tells nothing that lasts longer.
    Process(u32),
    /// A systemd unit, by the hash of its name: its cgroup's id changes with every restart.
    Unit(u64),
    /// A cgroup by id in one of the trees.
    Cgroup(Tree, u64),
    /// A block device by kernel device number.
    Device(u32),
    /// A remote address; IPv4 in the first four bytes.
    Peer {
        /// Network-order address bytes.
        address: [u8; 16],
        /// Whether all 16 bytes count.
        v6: bool,
    },
    /// What the kernel's log speaks of.
    Kernel {
        /// Which rule, see [`crate::kernel_log::rules::at`].
        rule: u16,
        /// What it names, NUL-padded; may be empty.
        subject: [u8; COMM_LEN],
    },
}

/// Which cgroup hierarchy an id belongs to; ids are unique only within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Tree {
    /// The default (v2) hierarchy, where processes and units are found.
    Process,
    /// The hierarchy of the memory controller; on v2 the same ids as `Process`.
    Memory,
}

impl Entity {
    /// The entity's kind as printed in `entity.kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Executable(_) => "executable",
            Self::Process(_) => "process",
            Self::Unit(_) => "unit",
            Self::Cgroup(..) => "cgroup",
            Self::Device(_) => "device",
            Self::Peer { .. } => "peer",
            Self::Kernel { .. } => "kernel",
        }
    }
}

/// An address field as the kernel hands it over.
pub fn ip(address: &[u8; 16], v6: bool) -> IpAddr {
    if v6 {
        return IpAddr::V6(Ipv6Addr::from(*address));
    }
    let [a, b, c, d, ..] = *address;
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// A NUL-padded task name as text; bytes that are not UTF-8 become U+FFFD.
pub fn comm_text(comm: &[u8; COMM_LEN]) -> String {
    let end = comm.iter().position(|b| *b == 0).unwrap_or(COMM_LEN);
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

/// Key of a unit name: FNV-1a, 64 bit, the same on every machine and in every replay.
pub fn unit_key(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comm_stops_at_nul_and_survives_bytes() {
        assert_eq!(comm_text(b"nginx\0garbage\0\0\0"), "nginx");
        assert_eq!(comm_text(b"\xff\xfe\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn addresses_print_by_family() {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, 1]);
        assert_eq!(ip(&address, false).to_string(), "10.0.0.1");
        address = [0; 16];
        address[15] = 1;
        assert_eq!(ip(&address, true).to_string(), "::1");
    }
}
