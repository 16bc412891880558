//! `process_exit`: every process that ends by a fatal signal or with a non-zero status, once.

use faultline_common::sensor::PROCESS_EXIT;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] = &[
    &["task_signal"],
    &["signal_live", "arg_group_dead"],
    &["signal_flags"],
    &["signal_group_exit_code"],
    &["task_group_leader"],
    &["task_exit_code"],
    &["task_tgid"],
    &["task_start_time"],
    &["task_comm"],
];

const WANTS: &[(&str, &[&str])] = &[
    ("ppid", &["task_real_parent"]),
    ("uid", &["cred_uid"]),
    ("cgroup_id", &["css_set_dfl_cgrp"]),
    ("parent_cgroup_id", &["css_set_dfl_cgrp"]),
    ("parent_cgroup_id", &["kernfs_id"]),
];

/// No plain-tracepoint rung: the format carries no exit code.
pub const SPEC: SensorSpec = SensorSpec {
    name: "process_exit",
    number: PROCESS_EXIT,
    about: "processes that end by a fatal signal or with a non-zero status",
    required: true,
    sampled: false,
    maps: &["CRITICAL", "BULK", "REPORTED"],
    rungs: &[
        Rung {
            kind: HookKind::TpBtf,
            programs: &[ProgramSpec { program: "proc_exit_btf", category: "sched", point: "sched_process_exit" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::RawTp,
            programs: &[ProgramSpec { program: "proc_exit_raw", category: "sched", point: "sched_process_exit" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
    ],
};
