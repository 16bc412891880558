//! `block_io`: latency of every request from issue to completion; records for outliers and errors.

use faultline_common::sensor::BLOCK_IO;

use super::{HookKind, ProgramSpec, Rung, SensorSpec};

const NEEDS: &[&[&str]] = &[
    &["arg_issue_rq"],
    &["arg_complete_rq"],
    &["arg_error_is_status"],
    &["rq_disk", "queue_disk"],
    &["disk_major"],
    &["disk_first_minor"],
    &["rq_cmd_flags"],
    &["rq_data_len"],
];

const WANTS: &[(&str, &[&str])] = &[("sector", &["rq_sector"])];

/// No plain-tracepoint rung: the format carries no request.
pub const SPEC: SensorSpec = SensorSpec {
    name: "block_io",
    number: BLOCK_IO,
    about: "slow and failed requests of block devices",
    required: true,
    sampled: false,
    maps: &["CRITICAL", "BULK", "BLOCK_HIST", "DEVICES", "INFLIGHT"],
    rungs: &[
        Rung {
            kind: HookKind::TpBtf,
            programs: &[
                ProgramSpec { program: "block_done_btf", category: "block", point: "block_rq_complete" },
                ProgramSpec { program: "block_issue_btf", category: "block", point: "block_rq_issue" },
            ],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
        Rung {
            kind: HookKind::RawTp,
            programs: &[
                ProgramSpec { program: "block_done_raw", category: "block", point: "block_rq_complete" },
                ProgramSpec { program: "block_issue_raw", category: "block", point: "block_rq_issue" },
            ],
            needs: NEEDS,
            wants: WANTS,
            never: &[],
        },
    ],
};
