//! Resolve: the running kernel's BTF and tracefs formats in, [`Offsets`] out. What is not found stays absent.
//!
//! Each offset has its places in order of preference: kernels moved and renamed fields. Sources: the structs'
//! definitions at v5.10, v6.1, v6.12, v6.18 and v7.0, named in `faultline_common::offsets`.

use std::path::Path;

use faultline_common::offsets::{ABSENT, Offsets};

use crate::kernel::{Btf, KernelFacts, ParamType, TraceFormat};

/// Offset name, struct, member path; several lines for one name are alternatives.
const MEMBERS: &[(&str, &str, &str)] = &[
    ("task_pid", "task_struct", "pid"),
    ("task_tgid", "task_struct", "tgid"),
    ("task_comm", "task_struct", "comm"),
    ("task_group_leader", "task_struct", "group_leader"),
    ("task_real_parent", "task_struct", "real_parent"),
    ("task_start_time", "task_struct", "start_time"),
    ("task_exit_code", "task_struct", "exit_code"),
    ("task_signal", "task_struct", "signal"),
    ("task_cred", "task_struct", "cred"),
    ("task_mm", "task_struct", "mm"),
    ("task_cgroups", "task_struct", "cgroups"),
    ("signal_live", "signal_struct", "live.counter"),
    ("signal_flags", "signal_struct", "flags"),
    ("signal_group_exit_code", "signal_struct", "group_exit_code"),
    ("cred_uid", "cred", "uid.val"),
    ("mm_total_vm", "mm_struct", "total_vm"),
    ("css_set_dfl_cgrp", "css_set", "dfl_cgrp"),
    ("css_cgroup", "cgroup_subsys_state", "cgroup"),
    ("cgroup_kn", "cgroup", "kn"),
    ("kernfs_id", "kernfs_node", "id"),
    ("sk_family", "sock", "__sk_common.skc_family"),
    ("sk_state", "sock", "__sk_common.skc_state"),
    ("sk_num", "sock", "__sk_common.skc_num"),
    ("sk_dport", "sock", "__sk_common.skc_dport"),
    ("sk_saddr", "sock", "__sk_common.skc_rcv_saddr"),
    ("sk_daddr", "sock", "__sk_common.skc_daddr"),
    ("sk_saddr6", "sock", "__sk_common.skc_v6_rcv_saddr"),
    ("sk_daddr6", "sock", "__sk_common.skc_v6_daddr"),
    ("sk_net", "sock", "__sk_common.skc_net.net"),
    ("net_inum", "net", "ns.inum"),
    ("inet_sport", "inet_sock", "inet_sport"),
    ("sk_protocol", "sock", "sk_protocol"),
    ("sk_err", "sock", "sk_err"),
    ("sk_cgroup", "sock", "sk_cgrp_data.cgroup"),
    ("sk_cgroup", "sock", "sk_cgrp_data.val"),
    ("skb_head", "sk_buff", "head"),
    ("skb_network_header", "sk_buff", "network_header"),
    ("skb_protocol", "sk_buff", "protocol"),
    ("skb_len", "sk_buff", "len"),
    ("skb_iif", "sk_buff", "skb_iif"),
    ("tcp_segs_out", "tcp_sock", "segs_out"),
    ("tcp_total_retrans", "tcp_sock", "total_retrans"),
    ("rq_queue", "request", "q"),
    ("rq_disk", "request", "rq_disk"),
    ("queue_disk", "request_queue", "disk"),
    ("disk_major", "gendisk", "major"),
    ("disk_first_minor", "gendisk", "first_minor"),
    ("rq_cmd_flags", "request", "cmd_flags"),
    ("rq_data_len", "request", "__data_len"),
    ("rq_sector", "request", "__sector"),
];

/// Offset name, tracefs category, event, field.
const FORMATS: &[(&str, &str, &str, &str)] = &[
    ("tp_victim_pid", "oom", "mark_victim", "pid"),
    ("tp_victim_comm", "oom", "mark_victim", "comm"),
    ("tp_victim_total_vm", "oom", "mark_victim", "total_vm"),
    ("tp_victim_anon", "oom", "mark_victim", "anon_rss"),
    ("tp_victim_file", "oom", "mark_victim", "file_rss"),
    ("tp_victim_shmem", "oom", "mark_victim", "shmem_rss"),
    ("tp_victim_uid", "oom", "mark_victim", "uid"),
    ("tp_hang_pid", "sched", "sched_process_hang", "pid"),
    ("tp_tcp_skaddr", "tcp", "tcp_retransmit_skb", "skaddr"),
    ("tp_tcp_state", "tcp", "tcp_retransmit_skb", "state"),
    ("tp_tcp_sport", "tcp", "tcp_retransmit_skb", "sport"),
    ("tp_tcp_dport", "tcp", "tcp_retransmit_skb", "dport"),
    ("tp_tcp_family", "tcp", "tcp_retransmit_skb", "family"),
    ("tp_tcp_saddr", "tcp", "tcp_retransmit_skb", "saddr"),
    ("tp_tcp_daddr", "tcp", "tcp_retransmit_skb", "daddr"),
    ("tp_tcp_saddr6", "tcp", "tcp_retransmit_skb", "saddr_v6"),
    ("tp_tcp_daddr6", "tcp", "tcp_retransmit_skb", "daddr_v6"),
    ("tp_tcp_err", "tcp", "tcp_retransmit_skb", "err"),
];

/// Resolves everything this kernel offers.
pub fn resolve(facts: &KernelFacts, btf: Option<&Btf>, critical_bytes: u32) -> Offsets {
    let mut offsets = Offsets { page_shift: facts.page_size.max(1).ilog2(), critical_bytes, ..Offsets::NONE };
    if let Some(btf) = btf {
        members(btf, &mut offsets);
        memory_counters(btf, &mut offsets);
        memory_controller(btf, &mut offsets);
        arguments(btf, &mut offsets);
    }
    if facts.cgroups.v2.is_none() {
        // The default hierarchy exists but nobody sorts processes in it: its ids would all name the root.
        offsets.css_set_dfl_cgrp = ABSENT;
    }
    if let Some(tracefs) = &facts.tracefs {
        formats(tracefs, &mut offsets);
    }
    offsets
}

fn set(offsets: &mut Offsets, name: &str, value: Option<u32>) {
    if let (Some(place), Some(value)) = (offsets.get_mut(name), value)
        && *place == ABSENT
    {
        *place = value;
    }
}

fn members(btf: &Btf, offsets: &mut Offsets) {
    for (name, strukt, path) in MEMBERS {
        set(offsets, name, btf.member_offset(strukt, path).map(|m| m.offset));
    }
}

/// `mm->rss_stat`: an array of counters up to 6.1, of per-CPU counters (whose base count we read) after.
fn memory_counters(btf: &Btf, offsets: &mut Offsets) {
    for (name, member) in [("mm_file", "MM_FILEPAGES"), ("mm_anon", "MM_ANONPAGES"), ("mm_shmem", "MM_SHMEMPAGES")] {
        let Some(index) = btf.enum_value("", member) else { continue };
        for path in [format!("rss_stat[{index}].count"), format!("rss_stat.count[{index}].counter")] {
            set(offsets, name, btf.member_offset("mm_struct", &path).map(|m| m.offset));
        }
    }
}

fn memory_controller(btf: &Btf, offsets: &mut Offsets) {
    if let Some(index) = btf.enum_value("cgroup_subsys_id", "memory_cgrp_id") {
        let path = format!("subsys[{index}]");
        set(offsets, "css_set_memory", btf.member_offset("css_set", &path).map(|m| m.offset));
    }
}

/// What the tracepoints pass, from their prototypes.
fn arguments(btf: &Btf, offsets: &mut Offsets) {
    let proto = |point: &str| btf.func_proto_of_typedef(&format!("btf_trace_{point}"));
    if let Some(args) = proto("mark_victim") {
        let is_task = matches!(args.first(), Some(ParamType::Pointer { .. }));
        set(offsets, "arg_victim_is_task", Some(is_task.into()));
    }
    if let Some(args) = proto("tcp_retransmit_skb") {
        set(offsets, "arg_retransmit_err", (args.len() > 2).then_some(2));
    }
    if let Some(args) = proto("kfree_skb") {
        set(offsets, "arg_drop_reason", (args.len() > 2).then_some(2));
    }
    if let Some(args) = proto("tcp_send_reset") {
        set(offsets, "arg_reset_skb", (args.len() > 1).then_some(1));
    }
    if let Some(args) = proto("sched_process_exit") {
        set(offsets, "arg_group_dead", (args.len() > 1).then_some(1));
    }
    if let Some(args) = proto("block_rq_issue") {
        set(offsets, "arg_issue_rq", request_position(&args));
    }
    if let Some(args) = proto("block_rq_complete") {
        let position = request_position(&args);
        set(offsets, "arg_complete_rq", position);
        let error = position.and_then(|p| args.get(p as usize + 1));
        let is_status = error.and_then(|error| match error {
            ParamType::Int { size: 1, .. } => Some(1),
            ParamType::Int { .. } => Some(0),
            _ => None,
        });
        set(offsets, "arg_error_is_status", is_status);
    }
}

/// 0 where the request comes first; kernels before 5.11 pass the queue first, and are not supported.
fn request_position(args: &[ParamType]) -> Option<u32> {
    let is_request = |p: &ParamType| matches!(p, ParamType::Pointer { pointee: Some(name) } if name == "request");
    args.first().is_some_and(is_request).then_some(0)
}

fn formats(tracefs: &Path, offsets: &mut Offsets) {
    for (name, category, event, field) in FORMATS {
        let format = TraceFormat::load(tracefs, category, event).ok();
        set(offsets, name, format.and_then(|f| f.field(field)).map(|f| f.offset));
    }
    hang_comm(tracefs, offsets);
}

/// The name of a hung task: 16 bytes in the record up to 6.12, 4 that say where it is after.
fn hang_comm(tracefs: &Path, offsets: &mut Offsets) {
    let format = TraceFormat::load(tracefs, "sched", "sched_process_hang").ok();
    let Some(field) = format.as_ref().and_then(|f| f.field("comm")) else { return };
    let name = if field.size == 4 { "tp_hang_comm_loc" } else { "tp_hang_comm" };
    set(offsets, name, Some(field.offset));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Root;

    #[test]
    fn every_resolved_name_exists() {
        let names = MEMBERS.iter().map(|m| m.0).chain(FORMATS.iter().map(|f| f.0));
        for name in
            names.chain(["mm_anon", "mm_file", "mm_shmem", "css_set_memory", "tp_hang_comm", "tp_hang_comm_loc"])
        {
            assert!(Offsets::NAMES.contains(&name), "{name}");
        }
    }

    #[test]
    fn without_btf_and_tracefs_everything_is_absent() {
        let empty = KernelFacts::gather(&Root::new("/nonexistent"));
        let offsets = resolve(&empty, None, 4096);
        let known = ["page_shift", "critical_bytes"];
        for name in Offsets::NAMES.iter().filter(|n| !known.contains(*n)) {
            assert_eq!(offsets.get(name), Some(ABSENT), "{name}");
        }
    }
}
