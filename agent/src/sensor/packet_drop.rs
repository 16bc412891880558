//! `packet_drop`: packets of IPv4 and IPv6 that the kernel drops for a reason that is not benign.

use faultline_common::sensor::PACKET_DROP;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] = &[&["skb_protocol"], &["skb_head"], &["skb_network_header"]];

const WANTS: &[(&str, &[&str])] =
    &[("reason", &["arg_drop_reason"]), ("ifindex", &["skb_iif"]), ("bytes", &["skb_len"])];

/// Sensor specification.
pub const SPEC: SensorSpec = SensorSpec {
    name: "packet_drop",
    number: PACKET_DROP,
    about: "packets that the kernel drops",
    required: false,
    sampled: true,
    maps: &["BULK"],
    rungs: &[
        Rung {
            kind: HookKind::TpBtf,
            programs: &[ProgramSpec { program: "packet_drop_btf", category: "skb", point: "kfree_skb" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::RawTp,
            programs: &[ProgramSpec { program: "packet_drop_raw", category: "skb", point: "kfree_skb" }],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
    ],
};
