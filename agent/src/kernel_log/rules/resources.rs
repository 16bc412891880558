//! Rules for what ran out, and for far ends that do not answer. Each group names the source whose messages it follows.

use super::{Rule, Shape::*};
use crate::{
    kernel_log::subject::Find::*,
    model::fault::{Class::*, Severity, Severity::*},
};

const fn ran_out(name: &'static str, kind: &'static str, severity: Severity) -> Rule {
    Rule::new(name, kind, ResourceExhaustion, severity).shape(Line)
}

/// In the order in which they are tried.
pub const RULES: &[Rule] = &[
    // mm/oom_kill.c. The last line of a report is the one that names the victim in every version.
    ran_out("memcg_oom_kill", "oom_kill", Error)
        .names(PidComm { after: "rocess " })
        .when(&["Memory cgroup out of memory: Kill", "Tasks in * are going to be killed due to memory.oom.group"]),
    ran_out("oom_kill", "oom_kill", Critical)
        .names(PidComm { after: "rocess " })
        .when(&["Out of memory: Kill", "Out of memory (oom_kill_allocating_task): Kill"]),
    // No victim, so no hook that tells of one.
    ran_out("oom_no_victim", "oom_kill", Critical).when(&["Out of memory and no killable processes"]),
    // mm/page_alloc.c (warn_alloc), mm/slub.c (slab_out_of_memory), fs/xfs/kmem.c
    ran_out("page_allocation", "memory_pressure", Warning).names(TaskBeforeColon).when(&[
        "*: page allocation failure",
        "SLUB: Unable to allocate memory on node",
        "XFS*possible memory allocation deadlock",
    ]),
    // net/netfilter/nf_conntrack_core.c, net/core/neighbour.c, net/core/dst.c
    ran_out("table_full", "network_table_full", Error).when(&[
        "*nf_conntrack*: table full, dropping packet",
        "*neighbo*table overflow",
        "*oute cache is full",
    ]),
    // net/ipv4/tcp.c, net/ipv4/tcp_input.c
    ran_out("tcp_memory", "memory_pressure", Error).when(&[
        "TCP: out of memory",
        "TCP: too many orphaned sockets",
        "*ut of socket memory",
    ]),
    ran_out("syn_flood", "listen_queue_full", Warning).when(&["*TCP: *ossible SYN flooding on port"]),
    // fs/file_table.c, kernel/cgroup/pids.c
    ran_out("file_limit", "limit_reached", Error).when(&["VFS: file-max limit % reached"]),
    ran_out("pids_limit", "limit_reached", Error)
        .names(Cgroup { after: "controller in " })
        .when(&["cgroup: fork rejected by pids controller in"]),
    // kernel/sched/rt.c, kernel/time/clocksource.c
    Rule::new("rt_throttled", "cpu_throttled", PerformanceDegradation, Warning)
        .shape(Line)
        .when(&["sched: RT throttling activated"]),
    Rule::new("clock_unstable", "clock_unstable", PerformanceDegradation, Warning)
        .shape(Line)
        .when(&["*Marking clocksource '*' as unstable", "*Clocksource * unstable ("]),
    // net/core/dev.c: somebody holds a reference, every change of an interface waits.
    Rule::new("netdev_held", "task_hang", ServiceUnavailability, Error)
        .shape(Line)
        .names(Interface { after: "waiting for " })
        .when(&["unregister_netdevice: waiting for "]),
    // net/sunrpc/clnt.c, fs/smb/client/connect.c, net/ceph/*.c
    Rule::new("remote_fs", "remote_fs_silent", NetworkPartition, Error).shape(Line).when(&[
        "nfs: server * not responding",
        "rpc: * not responding",
        "CIFS: *has not responded in",
        "ceph: mds%*hung",
        "libceph: osd% down",
    ]),
    // arch/x86/mm/fault.c, traps.c, kernel/signal.c, arch/arm64/kernel/traps.c: for the record, the crash sensor owns these.
    Rule::new("user_fault", "process_crash", ServiceUnavailability, Info).shape(Line).names(Segfault).when(&[
        "*[%]: segfault at ",
        "*[%] trap *ip:",
        "*[%] general protection*ip:",
        "*: unhandled signal %",
        "*[%]: unhandled exception: ",
        "*potentially unexpected fatal signal",
    ]),
];
