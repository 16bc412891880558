//! Offsets of kernel fields, resolved by user space at start from BTF and tracefs `format` files and handed
//! to the programs as read-only globals. Rust has no CO-RE relocation; the verifier sees these as constants,
//! so branches on [`ABSENT`] cost nothing. There is no default layout: what was not found is `ABSENT`.

/// The field does not exist on this kernel, or could not be resolved.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Byte offsets (and a few argument facts) by name; [`ABSENT`] where unknown.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets { $($(#[$meta])* pub $name: u32,)* }

        impl Offsets {
            /// Nothing resolved.
            pub const NONE: Self = Self { $($name: ABSENT,)* };
            /// All names, in order.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// The value of a name, `None` for an unknown name.
            pub fn get(&self, name: &str) -> Option<u32> {
                match name { $(stringify!($name) => Some(self.$name),)* _ => None }
            }

            /// The place of a name, `None` for an unknown name.
            pub fn get_mut(&mut self, name: &str) -> Option<&mut u32> {
                match name { $(stringify!($name) => Some(&mut self.$name),)* _ => None }
            }
        }
    };
}

offsets! {
    /// `task_struct.pid`
    task_pid,
    /// `task_struct.tgid`
    task_tgid,
    /// `task_struct.comm`
    task_comm,
    /// `task_struct.group_leader`
    task_group_leader,
    /// `task_struct.real_parent`
    task_real_parent,
    /// `task_struct.start_time`
    task_start_time,
    /// `task_struct.exit_code`
    task_exit_code,
    /// `task_struct.signal`
    task_signal,
    /// `task_struct.cred`
    task_cred,
    /// `task_struct.mm`
    task_mm,
    /// `task_struct.cgroups`
    task_cgroups,
    /// `signal_struct.live.counter`
    signal_live,
    /// `signal_struct.flags`
    signal_flags,
    /// `signal_struct.group_exit_code`
    signal_group_exit_code,
    /// `cred.uid.val`
    cred_uid,
    /// `mm_struct.total_vm`, pages
    mm_total_vm,
    /// `mm_struct.rss_stat` of MM_ANONPAGES, pages
    mm_anon,
    /// `mm_struct.rss_stat` of MM_FILEPAGES, pages
    mm_file,
    /// `mm_struct.rss_stat` of MM_SHMEMPAGES, pages
    mm_shmem,
    /// `css_set.dfl_cgrp`
    css_set_dfl_cgrp,
    /// `css_set.subsys[memory_cgrp_id]`
    css_set_memory,
    /// `cgroup_subsys_state.cgroup`
    css_cgroup,
    /// `cgroup.kn`
    cgroup_kn,
    /// `kernfs_node.id`
    kernfs_id,
    /// `sock.__sk_common.skc_family`
    sk_family,
    /// `sock.__sk_common.skc_state`
    sk_state,
    /// `sock.__sk_common.skc_num`
    sk_num,
    /// `sock.__sk_common.skc_dport`
    sk_dport,
    /// `sock.__sk_common.skc_rcv_saddr`
    sk_saddr,
    /// `sock.__sk_common.skc_daddr`
    sk_daddr,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    sk_saddr6,
    /// `sock.__sk_common.skc_v6_daddr`
    sk_daddr6,
    /// `sock.__sk_common.skc_net.net`
    sk_net,
    /// `net.ns.inum`
    net_inum,
    /// `sock.sk_protocol`
    sk_protocol,
    /// `sock.sk_err`
    sk_err,
    /// `sock.sk_cgrp_data`: the first word, a cgroup unless its lowest bit is set (up to 5.14)
    sk_cgroup,
    /// `sk_buff.head`
    skb_head,
    /// `sk_buff.network_header`
    skb_network_header,
    /// `sk_buff.protocol`
    skb_protocol,
    /// `sk_buff.len`
    skb_len,
    /// `sk_buff.skb_iif`: where it came in; `dev` shares its place with what queues need
    skb_iif,
    /// `inet_sock.inet_sport`: stays when the port is given back
    inet_sport,
    /// `tcp_sock.segs_out`
    tcp_segs_out,
    /// `tcp_sock.total_retrans`
    tcp_total_retrans,
    /// `request.q`
    rq_queue,
    /// `request.rq_disk`, up to 5.16
    rq_disk,
    /// `request_queue.disk`, from 5.15
    queue_disk,
    /// `gendisk.major`
    disk_major,
    /// `gendisk.first_minor`
    disk_first_minor,
    /// `request.cmd_flags`
    rq_cmd_flags,
    /// `request.__data_len`
    rq_data_len,
    /// `request.__sector`
    rq_sector,
    /// 1: `mark_victim` passes a task; 0: it passes only a pid
    arg_victim_is_task,
    /// Position of `err` among the arguments of `tcp_retransmit_skb` (from 6.17)
    arg_retransmit_err,
    /// Position of the request among the arguments of `block_rq_issue`; must be 0 (1 before 5.11)
    arg_issue_rq,
    /// Position of the request among the arguments of `block_rq_complete`; must be 0
    arg_complete_rq,
    /// 1: the error argument of `block_rq_complete` is a `blk_status_t`; 0: an errno
    arg_error_is_status,
    /// Position of `group_dead` among the arguments of `sched_process_exit` (from 6.16)
    arg_group_dead,
    /// Position of `reason` among the arguments of `kfree_skb` (from 5.17)
    arg_drop_reason,
    /// Position of `skb` among the arguments of `tcp_send_reset`; must be 1
    arg_reset_skb,
    /// tracefs `sched/sched_process_hang`: pid
    tp_hang_pid,
    /// tracefs `sched/sched_process_hang`: comm, an array
    tp_hang_comm,
    /// tracefs `sched/sched_process_hang`: comm, a `__data_loc` (from 6.13)
    tp_hang_comm_loc,
    /// tracefs `oom/mark_victim`: pid
    tp_victim_pid,
    /// tracefs `oom/mark_victim`: comm, a `__data_loc`
    tp_victim_comm,
    /// tracefs `oom/mark_victim`: total_vm, kB
    tp_victim_total_vm,
    /// tracefs `oom/mark_victim`: anon_rss, kB
    tp_victim_anon,
    /// tracefs `oom/mark_victim`: file_rss, kB
    tp_victim_file,
    /// tracefs `oom/mark_victim`: shmem_rss, kB
    tp_victim_shmem,
    /// tracefs `oom/mark_victim`: uid
    tp_victim_uid,
    /// tracefs `tcp/tcp_retransmit_skb`: skaddr
    tp_tcp_skaddr,
    /// tracefs `tcp/tcp_retransmit_skb`: state
    tp_tcp_state,
    /// tracefs `tcp/tcp_retransmit_skb`: sport
    tp_tcp_sport,
    /// tracefs `tcp/tcp_retransmit_skb`: dport
    tp_tcp_dport,
    /// tracefs `tcp/tcp_retransmit_skb`: family (from 6.1)
    tp_tcp_family,
    /// tracefs `tcp/tcp_retransmit_skb`: saddr
    tp_tcp_saddr,
    /// tracefs `tcp/tcp_retransmit_skb`: daddr
    tp_tcp_daddr,
    /// tracefs `tcp/tcp_retransmit_skb`: saddr_v6
    tp_tcp_saddr6,
    /// tracefs `tcp/tcp_retransmit_skb`: daddr_v6
    tp_tcp_daddr6,
    /// tracefs `tcp/tcp_retransmit_skb`: err (from 6.17)
    tp_tcp_err,
    /// log2 of the page size, not an offset
    page_shift,
    /// Bytes of the critical ring, not an offset
    critical_bytes,
}
