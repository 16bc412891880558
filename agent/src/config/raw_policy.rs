//! What was typed about the hands: `[scope]`, `protected`, `[[plan]]` and `[budget]` as serde sees them, and
//! their way to a valid [`Policy`]. A policy that could never act as its author meant is an error, too.

use serde::Deserialize;
use toml::Spanned;

use super::{
    ConfigError,
    policy::{Budget, MAX_ACTIONS, MAX_PLANS, MAX_STEPS, Network, Pattern, Plan, Policy, Protected, Scope, Step},
    raw::{Checker, DAY, MS, SECOND, Value},
};
use crate::model::{
    action::{Limit, Verb},
    fault::{Class, Kind, Severity},
};

type Names = Vec<Spanned<String>>;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawScope {
    units: Names,
    cgroups: Names,
    devices: Names,
    peers: Names,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBudget {
    actions: Value<i64>,
    window: Value<String>,
    cooldown: Value<String>,
    evidence_max_age: Value<String>,
    blast_radius: RawBlastRadius,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RawBlastRadius {
    count: Value<i64>,
    share_percent: Value<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlan {
    on: Spanned<String>,
    entity: Value<String>,
    class: Value<String>,
    severity: Value<String>,
    steps: Spanned<Vec<RawStep>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    verb: Spanned<String>,
    verify_for: Value<String>,
    timeout: Value<String>,
    memory_percent: Value<i64>,
    cpu_percent: Value<i64>,
    hold: Value<String>,
}

/// Kinds of faults that have a target for the verbs of this version, and the class each of them has.
const HEALABLE: [(Kind, Class); 4] = [
    (Kind::ProcessCrash, Class::ServiceUnavailability),
    (Kind::CrashLoop, Class::ServiceUnavailability),
    (Kind::OomKill, Class::ResourceExhaustion),
    (Kind::TaskHang, Class::ServiceUnavailability),
];

/// Kinds that are about devices and peers.
const BEYOND_REACH: [Kind; 7] = [
    Kind::KernelLog,
    Kind::DiskLatency,
    Kind::DiskError,
    Kind::RetransmitStorm,
    Kind::ConnectFailure,
    Kind::ConnectionReset,
    Kind::BadChecksum,
];

const CLASSES: [(&str, Class); 6] = [
    ("node_failure", Class::NodeFailure),
    ("performance_degradation", Class::PerformanceDegradation),
    ("resource_exhaustion", Class::ResourceExhaustion),
    ("network_partition", Class::NetworkPartition),
    ("service_unavailability", Class::ServiceUnavailability),
    ("data_corruption", Class::DataCorruption),
];

const SEVERITIES: [(&str, Severity); 4] = [
    ("info", Severity::Info),
    ("warning", Severity::Warning),
    ("error", Severity::Error),
    ("critical", Severity::Critical),
];

/// The limit of a `limit-cgroup` step that names none, per cent of the present usage.
const MEMORY_PERCENT: u8 = 80;

type Checked<T> = Result<T, ConfigError>;

/// Everything about the hands.
pub(super) fn policy(
    scope: &RawScope,
    protected: &Names,
    plans: &[RawPlan],
    budget: &RawBudget,
    check: &Checker<'_>,
) -> Checked<Policy> {
    Ok(Policy {
        scope: self::scope(scope, check)?,
        protected: protected.iter().map(|typed| guard(typed, check)).collect::<Checked<_>>()?,
        plans: self::plans(plans, check)?,
        budget: self::budget(budget, check)?,
    })
}

fn scope(raw: &RawScope, check: &Checker<'_>) -> Checked<Scope> {
    Ok(Scope {
        units: raw.units.iter().map(|typed| scope_unit(typed, check)).collect::<Checked<_>>()?,
        cgroups: raw.cgroups.iter().map(|typed| scope_cgroup(typed, check)).collect::<Checked<_>>()?,
        devices: raw.devices.iter().map(|typed| scope_device(typed, check)).collect::<Checked<_>>()?,
        peers: raw.peers.iter().map(|typed| scope_peer(typed, check)).collect::<Checked<_>>()?,
    })
}

fn scope_unit(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<Pattern> {
    const EXPECTED: &str =
        "services by name, such as \"web.service\" or \"batch-*.service\"; never a whole-machine scope";
    let stem = typed.as_ref().strip_suffix(".service").filter(|stem| is_specific(stem) && !stem.contains('/'));
    stem.map(|_| Pattern::new(typed.as_ref())).ok_or_else(|| check.refuse("scope.units", typed, EXPECTED))
}

fn scope_cgroup(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<String> {
    const EXPECTED: &str = "the path of a cgroup below the hierarchy's root, such as \"/apps.slice/batch\", without \
        wildcards or a final slash; never a whole-machine scope";
    let good = is_cgroup_path(typed.as_ref());
    if good { Ok(typed.as_ref().clone()) } else { Err(check.refuse("scope.cgroups", typed, EXPECTED)) }
}

fn scope_device(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<Pattern> {
    const EXPECTED: &str = "names below /sys/block, such as \"vda\" or \"nvme0*\"; never a whole-machine scope";
    let good = is_specific(typed.as_ref()) && !typed.as_ref().contains('/');
    if good { Ok(Pattern::new(typed.as_ref())) } else { Err(check.refuse("scope.devices", typed, EXPECTED)) }
}

fn scope_peer(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<Network> {
    const EXPECTED: &str = "addresses or networks, such as \"::1\" or \"10.0.0.0/8\" with nothing set behind the \
        prefix; never a whole-machine scope";
    Network::parse(typed.as_ref()).ok_or_else(|| check.refuse("scope.peers", typed, EXPECTED))
}

/// An entry of `protected`. Wildcards may be as wide as they like here: more protection is never dangerous.
fn guard(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<Protected> {
    const EXPECTED: &str = "a unit that has a cgroup (\"ssh.service\", \"db-*.slice\", \"init.scope\") or the path \
        of a cgroup below the root (\"/important.slice\") without wildcards or a final slash";
    let text = typed.as_ref();
    let is_unit = [".service", ".slice", ".scope"].iter().any(|suffix| text.ends_with(suffix)) && !text.contains('/');
    match text {
        _ if is_unit => Ok(Protected::Unit(Pattern::new(text))),
        _ if is_cgroup_path(text) => Ok(Protected::Cgroup(text.clone())),
        _ => Err(check.refuse("protected", typed, EXPECTED)),
    }
}

/// Whether a pattern names something in particular: what is left without its stars has a letter or digit.
fn is_specific(text: &str) -> bool {
    text.bytes().any(|b| b.is_ascii_alphanumeric())
}

/// A path below the root, written as the kernel writes it.
fn is_cgroup_path(text: &str) -> bool {
    let good = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('*');
    text.strip_prefix('/').is_some_and(|below| below.split('/').all(good))
}

fn plans(raw: &[RawPlan], check: &Checker<'_>) -> Checked<Vec<Plan>> {
    let mut plans: Vec<Plan> = Vec::with_capacity(raw.len());
    for typed in raw {
        if plans.len() == MAX_PLANS {
            return Err(check.refuse("plan.on", &typed.on, "at most 64 plans"));
        }
        let plan = plan(typed, check)?;
        if plans.iter().any(|earlier| takes_all(earlier, plan.on)) {
            let expected = "a plan that can be reached: an earlier one without entity, class and severity takes every \
                fault of this kind";
            return Err(check.refuse("plan.on", &typed.on, expected));
        }
        plans.push(plan);
    }
    Ok(plans)
}

fn takes_all(plan: &Plan, on: Kind) -> bool {
    plan.on == on && plan.entity.is_none() && plan.severity == Severity::Info
}

fn plan(raw: &RawPlan, check: &Checker<'_>) -> Checked<Plan> {
    let (on, natural) = on(&raw.on, check)?;
    let class = raw.class.as_ref().map(|typed| word("plan.class", typed, &CLASSES, CLASS_WORDS, check)).transpose()?;
    if let (Some(typed), Some(class)) = (&raw.class, class)
        && class != natural
    {
        let expected = "the class this kind has: service_unavailability for process_crash, crash_loop and task_hang, \
            resource_exhaustion for oom_kill";
        return Err(check.refuse("plan.class", typed, expected));
    }
    let severity = raw.severity.as_ref();
    let severity =
        severity.map(|typed| word("plan.severity", typed, &SEVERITIES, SEVERITY_WORDS, check)).transpose()?;
    let entity = raw.entity.as_ref().map(|typed| entity(typed, check)).transpose()?;
    Ok(Plan { on, entity, class, severity: severity.unwrap_or(Severity::Info), steps: steps(&raw.steps, check)? })
}

const CLASS_WORDS: &str = "one of node_failure, performance_degradation, resource_exhaustion, network_partition, \
    service_unavailability, data_corruption";
const SEVERITY_WORDS: &str = "one of info, warning, error, critical";

fn on(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<(Kind, Class)> {
    let name = typed.as_ref().as_str();
    if BEYOND_REACH.iter().any(|kind| kind.name() == name) {
        let expected = "a kind of fault that verbs can act upon (process_crash, crash_loop, oom_kill, task_hang): this one is \
            about a device, a peer or the kernel, which has no unit, cgroup or process";
        return Err(check.refuse("plan.on", typed, expected));
    }
    let found = HEALABLE.into_iter().find(|(kind, _)| kind.name() == name);
    found.ok_or_else(|| check.refuse("plan.on", typed, "one of process_crash, crash_loop, oom_kill, task_hang"))
}

fn entity(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<Pattern> {
    let expected = "the name of a unit, a cgroup path or an executable; `*` stands for any characters";
    if typed.as_ref().is_empty() {
        Err(check.refuse("plan.entity", typed, expected))
    } else {
        Ok(Pattern::new(typed.as_ref()))
    }
}

fn word<T: Copy>(
    key: &'static str,
    typed: &Spanned<String>,
    words: &[(&str, T)],
    expected: &'static str,
    check: &Checker<'_>,
) -> Checked<T> {
    let found = words.iter().find(|(word, _)| word == typed.as_ref()).map(|(_, value)| *value);
    found.ok_or_else(|| check.refuse(key, typed, expected))
}

fn steps(raw: &Spanned<Vec<RawStep>>, check: &Checker<'_>) -> Checked<Vec<Step>> {
    let count = raw.as_ref().len();
    if !(1..=MAX_STEPS).contains(&count) {
        let typed = Spanned::new(raw.span(), format!("a list of {count}"));
        return Err(check.refuse("plan.steps", &typed, "1 to 16 steps, such as [{ verb = \"restart-unit\" }]"));
    }
    raw.as_ref().iter().map(|typed| step(typed, check)).collect()
}

fn step(raw: &RawStep, check: &Checker<'_>) -> Checked<Step> {
    let verb = verb(&raw.verb, check)?;
    let expected = "a duration from 100ms to 1h, such as \"10s\"";
    let verify_ns =
        check.duration("plan.steps.verify_for", &raw.verify_for, 10 * SECOND, 100 * MS..=3600 * SECOND, expected)?;
    let expected = "a duration from 10ms to 10m, such as \"30s\"";
    let timeout_ns =
        check.duration("plan.steps.timeout", &raw.timeout, 30 * SECOND, 10 * MS..=600 * SECOND, expected)?;
    Ok(Step { verb, verify_ns, timeout_ns, limit: limit(raw, verb, check)?, hold_ns: hold(raw, verb, check)? })
}

fn verb(typed: &Spanned<String>, check: &Checker<'_>) -> Checked<Verb> {
    const EXPECTED: &str = "one of kill, freeze-cgroup, limit-cgroup, restart-unit, stop-unit";
    let found = Verb::ALL.iter().copied().find(|verb| verb.name() == typed.as_ref());
    match found {
        Some(Verb::ThawCgroup) => {
            let expected = "no thaw-cgroup: the agent itself thaws what it froze, after the `hold` of freeze-cgroup";
            Err(check.refuse("plan.steps.verb", typed, expected))
        }
        Some(verb) => Ok(verb),
        None => Err(check.refuse("plan.steps.verb", typed, EXPECTED)),
    }
}

fn limit(raw: &RawStep, verb: Verb, check: &Checker<'_>) -> Checked<Limit> {
    let typed = [("plan.steps.memory_percent", &raw.memory_percent), ("plan.steps.cpu_percent", &raw.cpu_percent)];
    if verb != Verb::LimitCgroup {
        let stray = typed.into_iter().find_map(|(key, value)| value.as_ref().map(|value| (key, value)));
        return match stray {
            Some((key, value)) => Err(check.refuse(key, value, "this key only together with verb = \"limit-cgroup\"")),
            None => Ok(Limit::default()),
        };
    }
    let [(memory_key, memory), (cpu_key, cpu)] = typed;
    let expected = "a share of the cgroup's present memory from 1 to 100";
    let memory_percent = check.number(memory_key, memory, MEMORY_PERCENT.into(), 1..=100, expected)? as u8;
    let expected = "a share of one CPU from 1 to 102400 (1024 CPUs)";
    let cpu_permille = check.number(cpu_key, cpu, 100, 1..=102_400, expected)? as u32 * 10;
    Ok(Limit {
        memory_percent: (memory.is_some() || cpu.is_none()).then_some(memory_percent),
        cpu_permille: cpu.as_ref().map(|_| cpu_permille),
    })
}

fn hold(raw: &RawStep, verb: Verb, check: &Checker<'_>) -> Checked<u64> {
    const KEY: &str = "plan.steps.hold";
    match &raw.hold {
        Some(typed) if verb != Verb::FreezeCgroup => {
            Err(check.refuse(KEY, typed, "this key only together with verb = \"freeze-cgroup\""))
        }
        _ if verb != Verb::FreezeCgroup => Ok(0),
        hold => check.duration(KEY, hold, 5 * SECOND, 100 * MS..=600 * SECOND, "a duration from 100ms to 10m"),
    }
}

fn budget(raw: &RawBudget, check: &Checker<'_>) -> Checked<Budget> {
    const UP_TO_A_DAY: &str = "a duration from 1s to 1d";
    let blast = &raw.blast_radius;
    let counts = 1..=MAX_ACTIONS as u64;
    let count = check.number("budget.blast_radius.count", &blast.count, 3, counts.clone(), "targets from 1 to 1000")?;
    let key = "budget.blast_radius.share_percent";
    let share = check.number(key, &blast.share_percent, 25, 1..=100, "a share of the targets from 1 to 100")?;
    let age = &raw.evidence_max_age;
    let expected = "a duration from 10ms to 1h, such as \"5s\"";
    Ok(Budget {
        actions: check.number("budget.actions", &raw.actions, 5, counts, "actions from 1 to 1000")? as usize,
        window_ns: check.duration("budget.window", &raw.window, 600 * SECOND, SECOND..=DAY, UP_TO_A_DAY)?,
        cooldown_ns: check.duration("budget.cooldown", &raw.cooldown, 30 * SECOND, 0..=DAY, "a duration up to 1d")?,
        evidence_max_age_ns: check.duration(
            "budget.evidence_max_age",
            age,
            5 * SECOND,
            10 * MS..=3600 * SECOND,
            expected,
        )?,
        blast_count: count as usize,
        blast_share_percent: share as u8,
    })
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
