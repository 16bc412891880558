//! Event: one fact from the kernel, decoded. In: a frame's bytes (by `decode`). Out: the record of one sensor.

use faultline_common::{
    event::{
        BlockIo, FLAG_BLK_STATUS, FLAG_NO_LATENCY, Header, OomKill, PacketDrop, ProcessExit, TaskHang, TcpConnect,
        TcpReset, TcpRetransmit,
    },
    sensor,
};

/// A decoded record; `Copy`, so that it travels without allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A process ended abnormally.
    ProcessExit(ProcessExit),
    /// The OOM killer chose a victim.
    OomKill(OomKill),
    /// A request completed late or with an error.
    BlockIo(BlockIo),
    /// A TCP segment was sent again.
    TcpRetransmit(TcpRetransmit),
    /// A task hangs in the kernel.
    TaskHang(TaskHang),
    /// A connect failed or was slow, or a connection timed out.
    TcpConnect(TcpConnect),
    /// A connection was reset.
    TcpReset(TcpReset),
    /// A packet was dropped.
    PacketDrop(PacketDrop),
}

impl Event {
    /// The common start of the record.
    pub fn header(&self) -> &Header {
        match self {
            Self::ProcessExit(e) => &e.header,
            Self::OomKill(e) => &e.header,
            Self::BlockIo(e) => &e.header,
            Self::TcpRetransmit(e) => &e.header,
            Self::TaskHang(e) => &e.header,
            Self::TcpConnect(e) => &e.header,
            Self::TcpReset(e) => &e.header,
            Self::PacketDrop(e) => &e.header,
        }
    }

    /// Sensor number.
    pub fn sensor(&self) -> u16 {
        match self {
            Self::ProcessExit(_) => sensor::PROCESS_EXIT,
            Self::OomKill(_) => sensor::OOM_KILL,
            Self::BlockIo(_) => sensor::BLOCK_IO,
            Self::TcpRetransmit(_) => sensor::TCP_RETRANSMIT,
            Self::TaskHang(_) => sensor::TASK_HANG,
            Self::TcpConnect(_) => sensor::TCP_CONNECT,
            Self::TcpReset(_) => sensor::TCP_RESET,
            Self::PacketDrop(_) => sensor::PACKET_DROP,
        }
    }
}

/// Whether a field was read by the kernel side; `bit` from the record type's `bit("name")`.
pub fn has(header: &Header, bit: u64) -> bool {
    header.missing & bit == 0
}

/// Latency of an I/O in ns, `None` when its issue was not seen.
pub fn latency_ns(io: &BlockIo) -> Option<u64> {
    latency_ns_of(&io.header, io.latency_ns)
}

/// A latency, `None` when the start of what it measures was not seen.
pub fn latency_ns_of(header: &Header, latency_ns: u64) -> Option<u64> {
    (header.flags & FLAG_NO_LATENCY == 0).then_some(latency_ns)
}

/// The errno (positive) of an I/O's error, 0 for success.
///
/// From 5.17 the kernel hands over a `blk_status_t`; the table is `blk_errors` of block/blk-core.c (v6.18),
/// unknown values become EIO as there.
pub fn errno(io: &BlockIo) -> i32 {
    if io.header.flags & FLAG_BLK_STATUS == 0 {
        return io.error.saturating_neg().max(0);
    }
    match io.error {
        0 => 0,
        1 => libc::EOPNOTSUPP,
        2 => libc::ETIMEDOUT,
        3 => libc::ENOSPC,
        4 => libc::ENOLINK,
        5 => libc::EREMOTEIO,
        6 => libc::EBADE,
        7 => libc::ENODATA,
        8 => libc::EILSEQ,
        9 => libc::ENOMEM,
        11 => libc::EREMCHG,
        12 => libc::EAGAIN,
        13 => libc::EBUSY,
        17 => libc::ENODEV,
        18 => libc::ETIME,
        19 => libc::EINVAL,
        _ => libc::EIO,
    }
}

/// Name of a request operation, `REQ_OP_*` of include/linux/blk_types.h.
pub fn op_name(op: u32) -> &'static str {
    match op {
        0 => "read",
        1 => "write",
        2 => "flush",
        3 => "discard",
        5 => "secure_erase",
        9 => "write_zeroes",
        32..=35 => "passthrough",
        _ => "other",
    }
}

/// Name of an operation class, see `faultline_common::hist::op_class`.
pub fn op_class_name(op_class: u32) -> &'static str {
    match op_class {
        0 => "read",
        1 => "write",
        _ => "other",
    }
}

/// Whether the operation is a raw command from user space or a driver, not file-system I/O.
pub fn is_passthrough(op: u32) -> bool {
    (32..=35).contains(&op)
}

/// Name of a TCP state, include/net/tcp_states.h.
pub fn tcp_state_name(state: u16) -> &'static str {
    const NAMES: [&str; 13] = [
        "unknown",
        "established",
        "syn_sent",
        "syn_recv",
        "fin_wait1",
        "fin_wait2",
        "time_wait",
        "close",
        "close_wait",
        "last_ack",
        "listen",
        "closing",
        "new_syn_recv",
    ];
    NAMES.get(usize::from(state)).copied().unwrap_or("unknown")
}
