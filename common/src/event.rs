//! Ring records: a [`Header`] followed by one sensor's payload, all little-endian, without implicit padding.
//!
//! Each record type has a field table (`FIELDS`): name, offset and size of every field, stored in each
//! recording so that later builds decode older recordings by name. The position of a field in that table is
//! also its bit in [`Header::missing`], the kernel's way to say "this kernel did not tell".

/// Name, byte offset and byte size of one field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Field name, a key of the recording's field table.
    pub name: &'static str,
    /// Byte offset from the start of the record.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

/// What every record starts with; 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `bpf_ktime_get_ns`: CLOCK_MONOTONIC nanoseconds at the hook.
    pub ktime_ns: u64,
    /// Id (kernfs node id) of the cgroup the event is about, 0 when unknown.
    pub cgroup_id: u64,
    /// Bit `i` set: the field at position `i` of the record's field table could not be read.
    pub missing: u64,
    /// Sensor number, see [`crate::sensor`].
    pub sensor: u16,
    /// `FLAG_*` bits.
    pub flags: u16,
    /// CPU that ran the hook.
    pub cpu: u32,
    /// Length of the whole record in bytes.
    pub len: u32,
    /// Zero.
    pub pad: u32,
}

/// [`Header::flags`]: `BlockIo::error` is a `blk_status_t`, not an errno.
pub const FLAG_BLK_STATUS: u16 = 1;
/// [`Header::flags`]: the latency of this completion is unknown (its issue was not seen).
pub const FLAG_NO_LATENCY: u16 = 2;

/// [`Header::flags`]: nobody waited for the outcome of this connect any longer.
pub const FLAG_GIVEN_UP: u16 = 4;

/// Length of a task's name, `TASK_COMM_LEN` of include/linux/sched.h.
pub const COMM_LEN: usize = 16;

macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name {
            /// Common start of every record.
            pub header: Header,
            $($(#[$fmeta])* pub $field: $ty,)*
        }

        impl $name {
            /// Field table; position = bit in [`Header::missing`].
            pub const FIELDS: &'static [Field] = &[
                header_field!(ktime_ns: u64),
                header_field!(cgroup_id: u64),
                header_field!(sensor: u16),
                header_field!(flags: u16),
                header_field!(cpu: u32),
                $(Field {
                    name: stringify!($field),
                    offset: core::mem::offset_of!($name, $field) as u32,
                    size: size_of::<$ty>() as u32,
                },)*
            ];
            /// The [`Header::missing`] bit of the field `name`; panics at compile time on an unknown name.
            pub const fn bit(name: &str) -> u64 {
                1 << position(Self::FIELDS, name)
            }
        }
    };
}

macro_rules! header_field {
    ($field:ident: $ty:ty) => {
        Field {
            name: stringify!($field),
            offset: core::mem::offset_of!(Header, $field) as u32,
            size: size_of::<$ty>() as u32,
        }
    };
}

const fn position(fields: &[Field], name: &str) -> usize {
    let mut i = 0;
    while i < fields.len() {
        if same(fields[i].name.as_bytes(), name.as_bytes()) {
            return i;
        }
        i += 1;
    }
    panic!("no such field")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

record! {
    /// A process (thread group) ended abnormally: a fatal signal or a non-zero status.
    ProcessExit {
        /// Start of the leader, CLOCK_MONOTONIC ns; with `pid` the identity of the process.
        start_ns: u64,
        /// Id of the parent's cgroup: differs from the own one for a unit's main process.
        parent_cgroup_id: u64,
        /// Thread group id in the initial pid namespace.
        pid: u32,
        /// Thread group id of the real parent.
        ppid: u32,
        /// Real user id.
        uid: u32,
        /// Wait status as wait(2) encodes it: signal, core flag 0x80, status in bits 8..16.
        exit_code: u32,
        /// Name of the leader.
        comm: [u8; COMM_LEN],
    }
}

record! {
    /// The OOM killer chose a victim. The header's cgroup is the victim's memory cgroup.
    OomKill {
        /// Anonymous resident memory, kB.
        anon_kb: u64,
        /// File-backed resident memory, kB.
        file_kb: u64,
        /// Shared resident memory, kB.
        shmem_kb: u64,
        /// Virtual size, kB.
        total_vm_kb: u64,
        /// Thread group id of the victim; on kernels that pass only a pid, that of its marked thread.
        victim_pid: u32,
        /// Thread group id of the task whose allocation triggered the kill.
        trigger_pid: u32,
        /// Real user id of the victim.
        uid: u32,
        /// Zero.
        reserved: u32,
        /// Name of the victim.
        victim_comm: [u8; COMM_LEN],
        /// Name of the trigger.
        trigger_comm: [u8; COMM_LEN],
    }
}

record! {
    /// A request completed late or with an error.
    BlockIo {
        /// Issue to completion, ns; meaningless under [`FLAG_NO_LATENCY`].
        latency_ns: u64,
        /// First sector, 512-byte units.
        sector: u64,
        /// Device number, kernel encoding: major << 20 | minor.
        dev: u32,
        /// Bytes that this completion ended.
        bytes: u32,
        /// Negative errno, or `blk_status_t` under [`FLAG_BLK_STATUS`]; 0 is success.
        error: i32,
        /// `REQ_OP_*` of include/linux/blk_types.h.
        op: u32,
    }
}

record! {
    /// A TCP segment was sent again.
    TcpRetransmit {
        /// The socket's address in kernel memory: the key of the flow, never printed.
        sock: u64,
        /// Local address; IPv4 in the first four bytes.
        saddr: [u8; 16],
        /// Remote address; IPv4 in the first four bytes.
        daddr: [u8; 16],
        /// `tcp_sock.segs_out`: data segments sent so far by this socket.
        segs_out: u32,
        /// `tcp_sock.total_retrans`: retransmits so far by this socket.
        total_retrans: u32,
        /// Inode number of the network namespace.
        netns: u32,
        /// AF_INET or AF_INET6.
        family: u16,
        /// TCP state number, include/net/tcp_states.h.
        state: u16,
        /// Local port, host order.
        sport: u16,
        /// Remote port, host order.
        dport: u16,
        /// Zero.
        reserved: u32,
    }
}

record! {
    /// A task has not run for longer than the kernel's hung-task timeout.
    TaskHang {
        /// Start of the task, CLOCK_MONOTONIC ns; with `pid` its identity.
        start_ns: u64,
        /// Id of the thread that hangs.
        pid: u32,
        /// Its thread group.
        tgid: u32,
        /// Real user id.
        uid: u32,
        /// Zero.
        reserved: u32,
        /// Name of the task.
        comm: [u8; COMM_LEN],
    }
}

record! {
    /// A connection could not be made, took long to make, or timed out when it stood.
    TcpConnect {
        /// The socket's address in kernel memory: the key of the flow, never printed.
        sock: u64,
        /// From the first SYN to the outcome, ns; meaningless under [`FLAG_NO_LATENCY`].
        latency_ns: u64,
        /// Local address; IPv4 in the first four bytes.
        saddr: [u8; 16],
        /// Remote address; IPv4 in the first four bytes.
        daddr: [u8; 16],
        /// Inode number of the network namespace.
        netns: u32,
        /// `sock.sk_err`: why, a positive errno; 0 is success.
        error: u32,
        /// AF_INET or AF_INET6.
        family: u16,
        /// TCP state it was in, include/net/tcp_states.h: syn_sent, or established for one that timed out later.
        state: u16,
        /// Local port, host order.
        sport: u16,
        /// Remote port, host order.
        dport: u16,
    }
}

record! {
    /// A connection was reset.
    TcpReset {
        /// The socket's address in kernel memory: the key of the flow, never printed; 0: nobody listens.
        sock: u64,
        /// Local address; IPv4 in the first four bytes.
        saddr: [u8; 16],
        /// Remote address; IPv4 in the first four bytes.
        daddr: [u8; 16],
        /// Inode number of the network namespace.
        netns: u32,
        /// 1: we sent it; 0: we received it.
        sent: u32,
        /// AF_INET or AF_INET6.
        family: u16,
        /// TCP state it was in, include/net/tcp_states.h.
        state: u16,
        /// Local port, host order.
        sport: u16,
        /// Remote port, host order.
        dport: u16,
    }
}

record! {
    /// The kernel dropped a packet of IPv4 or IPv6.
    PacketDrop {
        /// Where: an address in kernel code.
        location: u64,
        /// Source address in the packet; IPv4 in the first four bytes.
        saddr: [u8; 16],
        /// Destination address in the packet; IPv4 in the first four bytes.
        daddr: [u8; 16],
        /// `enum skb_drop_reason` of the running kernel, subsystem in the upper half.
        reason: u32,
        /// Number of the device it came in by; 0: from this node.
        ifindex: u32,
        /// Length in bytes.
        bytes: u32,
        /// AF_INET or AF_INET6.
        family: u16,
        /// Protocol number of layer 4.
        protocol: u16,
        /// Source port, host order; 0 where there is none.
        sport: u16,
        /// Destination port, host order; 0 where there is none.
        dport: u16,
        /// Drops for the same reason since the last record that have none of their own: only some a second are told.
        skipped: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_dense(fields: &[Field], size: usize) {
        let covered: u32 = fields.iter().map(|f| f.size).sum();
        let header_rest = size_of::<Header>() as u32 - (8 + 8 + 2 + 2 + 4);
        assert_eq!(covered + header_rest, size as u32, "implicit padding or an unlisted field");
        assert!(fields.len() <= 64, "more fields than bits in Header::missing");
    }

    #[test]
    fn layouts_have_no_implicit_padding() {
        assert_dense(ProcessExit::FIELDS, size_of::<ProcessExit>());
        assert_dense(OomKill::FIELDS, size_of::<OomKill>());
        assert_dense(BlockIo::FIELDS, size_of::<BlockIo>());
        assert_dense(TcpRetransmit::FIELDS, size_of::<TcpRetransmit>());
        assert_dense(TaskHang::FIELDS, size_of::<TaskHang>());
        assert_dense(TcpConnect::FIELDS, size_of::<TcpConnect>());
        assert_dense(TcpReset::FIELDS, size_of::<TcpReset>());
        assert_dense(PacketDrop::FIELDS, size_of::<PacketDrop>());
    }

    #[test]
    fn missing_bits_follow_the_table() {
        assert_eq!(OomKill::bit("ktime_ns"), 1);
        assert_eq!(OomKill::bit("anon_kb"), 1 << 5);
    }
}
