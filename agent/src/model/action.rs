//! Action: what the hands may do, what was asked of them, and what came of it. Fixed size and `Copy`, so that
//! the engine decides without allocation; serialisable, because requests cross to the executor and results
//! come back as recorded inputs.

use serde::{Deserialize, Serialize};

use super::entity::Entity;

/// One closed, typed action. There is no verb that takes a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// SIGKILL to every process of a cgroup (`cgroup.kill` or pidfds), or to one process by its pidfd.
    Kill,
    /// Stops every task of a cgroup until it is thawed.
    FreezeCgroup,
    /// Lets a frozen cgroup go on.
    ThawCgroup,
    /// Sets `memory.high` and `cpu.max`, or what v1 has instead.
    LimitCgroup,
    /// systemd: `RestartUnit`, job mode `replace`.
    RestartUnit,
    /// systemd: `StopUnit`, job mode `replace`.
    StopUnit,
}

/// New limits of a cgroup; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// `memory.high` (v1: `memory.limit_in_bytes`, a hard limit and therefore never below the usage) in per cent of the
    /// usage at the time of writing, 1..=100.
    pub memory_percent: Option<u8>,
    /// `cpu.max` in thousandths of one CPU (v1: `cpu.cfs_quota_us`), 10..=1024000.
    pub cpu_permille: Option<u32>,
}

/// What the engine asks of the hands, after every brake that can be judged from inputs alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Number of the action since the agent started, from 1.
    pub id: u64,
    /// The fault it is about.
    pub fault: u64,
    /// What to do.
    pub verb: Verb,
    /// To what: a `Unit`, `Cgroup` or `Process`, as the fault's entity or what it belongs to.
    pub target: Entity,
    /// For `limit-cgroup`.
    pub limit: Limit,
    /// Engine time of the evidence it rests on, CLOCK_MONOTONIC ns.
    pub evidence_ns: u64,
    /// The hands refuse once the evidence is older than this, ns.
    pub evidence_max_age_ns: u64,
    /// The action must be over within this time, ns.
    pub timeout_ns: u64,
    /// The entity's health is looked at for this long after it, ns.
    pub verify_ns: u64,
}

/// What became of a decision, as printed in `decision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The hands did it, or tried to.
    Executed,
    /// It would have been done in mode `act`.
    DryRun,
    /// A brake stopped it.
    Refused,
}

/// What verification saw, as printed in `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The entity was healthy when `verify_for` had passed, and the fault did not speak again.
    Recovered,
    /// The action failed, the fault spoke again, or the entity is not healthy.
    Failed,
    /// Nobody could tell.
    Unknown,
}

/// Why nothing was done, or why what was done failed; printed in `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    // Brakes of the pure decider, in the order in which they are asked.
    /// The evidence is older than `evidence_max_age`.
    EvidenceTooOld,
    /// Not named by `[scope]`; an empty scope names nothing.
    OutOfScope,
    /// PID 1, a kernel thread, the agent, its guardian, a cgroup that holds one of them, or `protected`.
    Protected,
    /// The fault's entity has no target for this verb (no unit, no cgroup), or its name is unknown.
    NoTarget,
    /// Another action on the same target is not over yet.
    Busy,
    /// `cooldown` of the target is not over.
    Cooldown,
    /// `budget.actions` in `budget.window` are used up.
    Budget,
    /// `blast_radius` would be passed.
    BlastRadius,
    /// The strategy failed twice in a row on this entity.
    BreakerOpen,
    /// The fault cleared meanwhile.
    FaultCleared,
    /// Every step of the plan was tried.
    PlanExhausted,
    /// The agent is about to end; only what undoes is still done.
    Stopping,
    // Refusals and failures of the hands.
    /// The pid belongs to another process now.
    PidRecycled,
    /// The cgroup was removed and made again, or the prepared handle is stale.
    CgroupRecreated,
    /// Somebody else has frozen it: not ours to thaw.
    AlreadyFrozen,
    /// The cgroup, process or unit is gone.
    TargetGone,
    /// systemd does not know the unit.
    UnitUnknown,
    /// No D-Bus, or nobody answers on it.
    NoServiceManager,
    /// The journal has no room or cannot be written; no journal slot, no action.
    NoJournal,
    /// The journal of an earlier run is damaged; nothing is done until it is looked at.
    JournalCorrupt,
    /// The guardian that would take it back is gone.
    NoGuardian,
    /// The queue to the executor is full.
    QueueFull,
    /// The kernel or systemd said no.
    NotPermitted,
    /// This kernel or hierarchy does not offer it.
    NotSupported,
    /// It was not over in time.
    TimedOut,
    /// The job of the service manager did not end as `done`.
    JobFailed,
    /// The system call failed in a way that has no word of its own.
    SystemError,
    /// The agent's own cgroups are not known yet, or more cgroups hold something protected than can be remembered: nobody
    /// can tell who is protected, so everybody is.
    ProtectionUnknown,
}

/// What the hands answer; a recorded input of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// [`Request::id`].
    pub id: u64,
    /// `None`: done. `Some` with `started_ns` 0: refused before anything was touched. Else: tried and failed.
    pub reason: Option<Reason>,
    /// When the hands began, ns; 0 when they did not. Printed, never judged by the engine.
    pub started_ns: u64,
    /// When they were through, ns. Printed, never judged by the engine.
    pub finished_ns: u64,
}

/// The entity's own health at the end of `verify_for`, from the hands; a recorded input of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// [`Request::id`].
    pub id: u64,
    /// Unit: active with a main process; kill: nothing left; freeze: frozen; limit: in force. `None`: cannot be told.
    pub healthy: Option<bool>,
    /// When it was looked at, ns.
    pub now_ns: u64,
}

/// One step in the life of an action; what an `action` line prints.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Action {
    /// [`Request::id`]; a refusal before a request has a number of its own, too.
    pub id: u64,
    /// The fault it is about.
    pub fault: u64,
    /// What.
    pub verb: Verb,
    /// To what; the fault's entity where no target was found.
    pub target: Entity,
    /// What became of it.
    pub decision: Decision,
    /// Why not, or why it failed.
    pub reason: Option<Reason>,
    /// Measured by the hands, ns.
    pub started_ns: Option<u64>,
    /// Measured by the hands, ns.
    pub finished_ns: Option<u64>,
    /// `None` while it runs or is being verified, and for refusals and dry runs.
    pub outcome: Option<Outcome>,
    /// Engine time of this line, ns.
    pub at_ns: u64,
}

/// Why a word of an `action` line is spelled as it is: one table for printing and for the journal.
macro_rules! words {
    ($type:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// The word as printed.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
    };
}

words!(Verb {
    Kill => "kill",
    FreezeCgroup => "freeze-cgroup",
    ThawCgroup => "thaw-cgroup",
    LimitCgroup => "limit-cgroup",
    RestartUnit => "restart-unit",
    StopUnit => "stop-unit",
});

words!(Decision { Executed => "executed", DryRun => "dry_run", Refused => "refused" });

words!(Outcome { Recovered => "recovered", Failed => "failed", Unknown => "unknown" });

words!(Reason {
    EvidenceTooOld => "evidence_too_old",
    OutOfScope => "out_of_scope",
    Protected => "protected",
    NoTarget => "no_target",
    Busy => "busy",
    Cooldown => "cooldown",
    Budget => "budget",
    BlastRadius => "blast_radius",
    BreakerOpen => "breaker_open",
    FaultCleared => "fault_cleared",
    PlanExhausted => "plan_exhausted",
    Stopping => "stopping",
    PidRecycled => "pid_recycled",
    CgroupRecreated => "cgroup_recreated",
    AlreadyFrozen => "already_frozen",
    TargetGone => "target_gone",
    UnitUnknown => "unit_unknown",
    NoServiceManager => "no_service_manager",
    NoJournal => "no_journal",
    JournalCorrupt => "journal_corrupt",
    NoGuardian => "no_guardian",
    QueueFull => "queue_full",
    NotPermitted => "not_permitted",
    NotSupported => "not_supported",
    TimedOut => "timed_out",
    JobFailed => "job_failed",
    SystemError => "system_error",
    ProtectionUnknown => "protection_unknown",
});
