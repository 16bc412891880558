//! `tcp_reset`: TCP resets, sent and received.

use faultline_common::sensor::TCP_RESET;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] =
    &[&["sk_family"], &["sk_daddr"], &["sk_saddr"], &["sk_dport"], &["sk_num"], &["arg_reset_skb"]];

const WANTS: &[(&str, &[&str])] = &[
    ("state", &["sk_state"]),
    ("netns", &["net_inum"]),
    ("cgroup_id", &["sk_cgroup"]),
    ("cgroup_id", &["css_set_dfl_cgrp"]),
    ("cgroup_id", &["kernfs_id"]),
];

/// Sensor specification. `raw_tp` first: some kernels from 6.10 on pass no socket and promise one by their BTF, so that the
/// verifier of a typed program cuts that case away.
pub const SPEC: SensorSpec = SensorSpec {
    name: "tcp_reset",
    number: TCP_RESET,
    about: "TCP connections that are reset, by either end",
    required: false,
    sampled: false,
    maps: &["BULK"],
    rungs: &[
        Rung {
            kind: HookKind::RawTp,
            programs: &[
                ProgramSpec { program: "tcp_reset_in_raw", category: "tcp", point: "tcp_receive_reset" },
                ProgramSpec { program: "tcp_reset_out_raw", category: "tcp", point: "tcp_send_reset" },
            ],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::TpBtf,
            programs: &[
                ProgramSpec { program: "tcp_reset_in_btf", category: "tcp", point: "tcp_receive_reset" },
                ProgramSpec { program: "tcp_reset_out_btf", category: "tcp", point: "tcp_send_reset" },
            ],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
    ],
};
