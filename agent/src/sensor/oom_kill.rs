//! `oom_kill`: every victim of the OOM killer, with its memory and its cgroup where the kernel tells.

use faultline_common::sensor::OOM_KILL;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] = &[&["arg_victim_is_task"]];

/// Every optional field needs the victim's task, which some kernels do not pass.
const WANTS: &[(&str, &[&str])] = &[
    ("victim_comm", &["task_comm"]),
    ("anon_kb", &["mm_anon"]),
    ("file_kb", &["mm_file"]),
    ("shmem_kb", &["mm_shmem"]),
    ("total_vm_kb", &["mm_total_vm"]),
    ("uid", &["cred_uid"]),
    ("cgroup_id", &["css_set_memory"]),
    ("cgroup_id", &["kernfs_id"]),
];

/// Sensor specification.
pub const SPEC: SensorSpec = SensorSpec {
    name: "oom_kill",
    number: OOM_KILL,
    about: "processes killed by the kernel for memory",
    required: true,
    sampled: false,
    maps: &["CRITICAL"],
    rungs: &[
        Rung {
            kind: HookKind::TpBtf,
            programs: &[ProgramSpec { program: "oom_kill_btf", category: "oom", point: "mark_victim" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::RawTp,
            programs: &[ProgramSpec { program: "oom_kill_raw", category: "oom", point: "mark_victim" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::Tracepoint,
            programs: &[ProgramSpec { program: "oom_kill_tp", category: "oom", point: "mark_victim" }],
            needs: &[&["tp_victim_pid"]],
            wants: &[
                ("victim_comm", &["tp_victim_comm"]),
                ("anon_kb", &["tp_victim_anon"]),
                ("file_kb", &["tp_victim_file"]),
                ("shmem_kb", &["tp_victim_shmem"]),
                ("total_vm_kb", &["tp_victim_total_vm"]),
                ("uid", &["tp_victim_uid"]),
            ],
            never: &["cgroup_id"],
        },
    ],
};
