//! What user space may turn while the programs run, and the device table; both in memory-mapped arrays,
//! written as single aligned `u64` stores, so that a program never sees half a value.

/// Tunables of all sensors, element 0 of the `TUNABLES` array.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// Latency from which a completion on a device without own entry is an outlier, ns.
    pub outlier_ns: u64,
    /// Process-exit records per executable and second.
    pub exit_limit: u64,
    /// I/O-error and outlier records per device and second.
    pub block_limit: u64,
    /// Retransmit records per flow and second.
    pub retransmit_limit: u64,
    /// From this long a connect that succeeds is told, too, ns.
    pub connect_slow_ns: u64,
    /// Connect and reset records per peer and second, each.
    pub peer_limit: u64,
    /// Drop records per reason (place, where the kernel tells no reason) and second.
    pub drop_limit: u64,
    /// Keeps the following at a cache line.
    pub reserved: u64,
    /// Bit n: drop reason n of the core is benign.
    pub benign_drops: [u64; DROP_WORDS],
}

/// Words of the mask of benign drop reasons; reasons beyond are never benign.
pub const DROP_WORDS: usize = 8;

impl Tunables {
    /// Defaults: generous enough that only floods are limited.
    pub const DEFAULT: Self = Self {
        outlier_ns: 40_000_000,
        exit_limit: 500,
        block_limit: 500,
        retransmit_limit: 200,
        connect_slow_ns: 1_000_000_000,
        peer_limit: 100,
        drop_limit: 20,
        reserved: 0,
        benign_drops: [0; DROP_WORDS],
    };
}

/// Length of the windows that the limits count in, ns.
pub const LIMIT_WINDOW_NS: u64 = 1_000_000_000;

/// Entries of the device table: open addressing, linear probing.
pub const DEVICE_ENTRIES: u32 = 128;
/// Probes before a device counts as unknown.
pub const DEVICE_PROBES: u32 = 8;

/// One entry of the device table. `outlier_ns` is written before `key`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// `dev << 32 | slot`; 0 is empty.
    pub key: u64,
    /// Latency from which a completion on this device is an outlier, ns.
    pub outlier_ns: u64,
}

impl DeviceEntry {
    /// Key of an entry whose device is gone: probing goes on behind it, unlike behind an empty one.
    pub const GONE: u64 = Self::pack(u32::MAX, 0);

    /// Packs a device number and its histogram slot.
    pub const fn pack(dev: u32, slot: u32) -> u64 {
        (dev as u64) << 32 | slot as u64
    }

    /// The device number.
    pub const fn dev(&self) -> u32 {
        (self.key >> 32) as u32
    }

    /// The histogram slot.
    pub const fn slot(&self) -> u32 {
        self.key as u32
    }
}

/// Table position of the `probe`-th try for a device.
pub const fn device_position(dev: u32, probe: u32) -> u32 {
    (dev.wrapping_mul(0x9e37_79b1) >> 16).wrapping_add(probe) % DEVICE_ENTRIES
}
