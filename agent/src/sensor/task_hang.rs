//! `task_hang`: every task that the kernel's hung-task check meets, with its cgroup.

use faultline_common::sensor::TASK_HANG;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] = &[&["task_pid"], &["task_comm"]];

const WANTS: &[(&str, &[&str])] = &[
    ("start_ns", &["task_start_time"]),
    ("tgid", &["task_tgid"]),
    ("uid", &["cred_uid"]),
    ("cgroup_id", &["css_set_dfl_cgrp"]),
    ("cgroup_id", &["kernfs_id"]),
];

/// Sensor specification.
pub const SPEC: SensorSpec = SensorSpec {
    name: "task_hang",
    number: TASK_HANG,
    about: "tasks that hang in the kernel",
    required: false,
    sampled: false,
    maps: &["CRITICAL"],
    rungs: &[
        Rung {
            kind: HookKind::TpBtf,
            programs: &[ProgramSpec { program: "task_hang_btf", category: "sched", point: "sched_process_hang" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::RawTp,
            programs: &[ProgramSpec { program: "task_hang_raw", category: "sched", point: "sched_process_hang" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::Tracepoint,
            programs: &[ProgramSpec { program: "task_hang_tp", category: "sched", point: "sched_process_hang" }],
            needs: &[&["tp_hang_pid"]],
            wants: &[("comm", &["tp_hang_comm", "tp_hang_comm_loc"])],
            never: &["start_ns", "tgid", "uid", "cgroup_id"],
        },
    ],
};
