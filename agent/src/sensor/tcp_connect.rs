//! `tcp_connect`: connects that fail or are slow, and connections that time out; no plain-tracepoint rung: the format carries no error.

use faultline_common::sensor::TCP_CONNECT;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] =
    &[&["sk_family"], &["sk_daddr"], &["sk_saddr"], &["sk_dport"], &["sk_num"], &["sk_protocol"], &["sk_err"]];

const WANTS: &[(&str, &[&str])] = &[
    ("netns", &["net_inum"]),
    ("cgroup_id", &["sk_cgroup"]),
    ("cgroup_id", &["css_set_dfl_cgrp"]),
    ("cgroup_id", &["kernfs_id"]),
];

/// Sensor specification.
pub const SPEC: SensorSpec = SensorSpec {
    name: "tcp_connect",
    number: TCP_CONNECT,
    about: "TCP connects that fail or are slow, and connections that time out",
    required: false,
    sampled: false,
    maps: &["BULK", "CONNECTS"],
    rungs: &[
        Rung {
            kind: HookKind::TpBtf,
            programs: &[ProgramSpec { program: "tcp_connect_btf", category: "sock", point: "inet_sock_set_state" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::RawTp,
            programs: &[ProgramSpec { program: "tcp_connect_raw", category: "sock", point: "inet_sock_set_state" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
    ],
};
