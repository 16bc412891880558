//! `tcp_retransmit`: every TCP segment that is sent again, by socket.

use faultline_common::sensor::TCP_RETRANSMIT;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] = &[&["sk_family"], &["sk_daddr"], &["sk_saddr"], &["sk_dport"], &["sk_num"]];

const WANTS: &[(&str, &[&str])] = &[
    ("state", &["sk_state"]),
    ("segs_out", &["tcp_segs_out"]),
    ("total_retrans", &["tcp_total_retrans"]),
    ("netns", &["net_inum"]),
    ("cgroup_id", &["sk_cgroup"]),
    ("cgroup_id", &["css_set_dfl_cgrp"]),
    ("cgroup_id", &["kernfs_id"]),
];

/// Sensor specification.
pub const SPEC: SensorSpec = SensorSpec {
    name: "tcp_retransmit",
    number: TCP_RETRANSMIT,
    about: "TCP segments that are sent again",
    required: true,
    sampled: false,
    maps: &["BULK"],
    rungs: &[
        Rung {
            kind: HookKind::TpBtf,
            programs: &[ProgramSpec { program: "tcp_retrans_btf", category: "tcp", point: "tcp_retransmit_skb" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::RawTp,
            programs: &[ProgramSpec { program: "tcp_retrans_raw", category: "tcp", point: "tcp_retransmit_skb" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::Tracepoint,
            programs: &[ProgramSpec { program: "tcp_retrans_tp", category: "tcp", point: "tcp_retransmit_skb" }],
            needs: &[&["tp_tcp_skaddr"], &["tp_tcp_daddr"], &["tp_tcp_dport"]],
            wants: &[("state", &["tp_tcp_state"])],
            never: &["segs_out", "total_retrans", "netns", "cgroup_id"],
        },
    ],
};
