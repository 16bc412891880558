//! A policy in words, for `check`: what may be touched, what never is, what each plan does, and the brakes.

use super::check::{duration, list};
use crate::{
    config::{
        Config, Mode,
        policy::{Budget, Plan, Policy, Protected, Scope, Step},
    },
    model::{action::Verb, fault::Severity},
};

/// One sentence a line.
pub(super) fn explain(config: &Config) -> Vec<String> {
    let policy = &config.policy;
    let mut lines = vec![mode(config), touchable(&policy.scope), untouchable(policy)];
    if policy.plans.is_empty() {
        lines.push("There is no plan: faults are reported and nothing is done about them.".into());
    }
    lines.extend(policy.plans.iter().enumerate().flat_map(|(n, plan)| plan_words(n + 1, plan)));
    lines.extend(brakes(&policy.budget));
    lines
}

fn mode(config: &Config) -> String {
    let can_act = !config.policy.scope.units.is_empty() || !config.policy.scope.cgroups.is_empty();
    match config.mode {
        Mode::Observe => {
            "Mode observe: faultline reports, says as dry_run what it would do, and touches nothing.".into()
        }
        Mode::Act if config.policy.plans.is_empty() => {
            "Mode act, but without a plan: faultline touches nothing.".into()
        }
        Mode::Act if !can_act => {
            "Mode act, but the scope names no unit and no cgroup: every action is refused as out_of_scope.".into()
        }
        Mode::Act => "Mode act: faultline repairs within the scope, by the plans below.".into(),
    }
}

fn touchable(scope: &Scope) -> String {
    if scope.is_empty() {
        return "It may touch nothing: the scope is empty.".into();
    }
    let units: Vec<String> = scope.units.iter().map(|p| p.as_str().to_owned()).collect();
    let devices: Vec<String> = scope.devices.iter().map(|p| p.as_str().to_owned()).collect();
    let peers: Vec<String> = scope.peers.iter().map(ToString::to_string).collect();
    let mut words = format!(
        "It may touch: services {}, with what runs in them; cgroups with everything below them: {}.",
        list(&units),
        list(&scope.cgroups)
    );
    if !devices.is_empty() || !peers.is_empty() {
        let more =
            format!(" No verb of this version acts on devices ({}) or peers ({}).", list(&devices), list(&peers));
        words.push_str(&more);
    }
    words
}

fn untouchable(policy: &Policy) -> String {
    let always = "PID 1, kernel threads, the agent, its guardian, and every cgroup that holds one of them or of these";
    let name = |guarded: &Protected| match guarded {
        Protected::Unit(pattern) => pattern.as_str().to_owned(),
        Protected::Cgroup(path) => path.clone(),
    };
    let names: Vec<String> = policy.protected.iter().map(name).collect();
    format!("It never touches: {always}: {}.", list(&names))
}

fn plan_words(number: usize, plan: &Plan) -> Vec<String> {
    let mut when = format!("Plan {number}: on {}", plan.on.name());
    if let Some(entity) = &plan.entity {
        when.push_str(&format!(" of {}", entity.as_str()));
    }
    if plan.severity > Severity::Info {
        when.push_str(&format!(", if it is at least {}", severity(plan.severity)));
    }
    let steps = plan.steps.iter().enumerate().map(|(n, step)| step_words(n, step));
    std::iter::once(format!("{when}:")).chain(steps).collect()
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
        Severity::Critical => "critical",
    }
}

fn step_words(index: usize, step: &Step) -> String {
    let what = match step.verb {
        Verb::Kill => "kill every process of its cgroup".to_owned(),
        Verb::FreezeCgroup => format!("freeze its cgroup for {} and thaw it again", duration(step.hold_ns)),
        Verb::ThawCgroup => "thaw its cgroup".into(),
        Verb::LimitCgroup => limit(step),
        Verb::RestartUnit => "restart its unit".into(),
        Verb::StopUnit => "stop its unit".into(),
    };
    let order = if index == 0 { "first" } else { "if that failed" };
    format!(
        "  {order}, {what} ({}, within {}) and look at its health for {}.",
        step.verb.name(),
        duration(step.timeout_ns),
        duration(step.verify_ns)
    )
}

fn limit(step: &Step) -> String {
    let memory = step.limit.memory_percent.map(|share| format!("memory to {share} % of what it uses then"));
    let cpu = step.limit.cpu_permille.map(|share| format!("CPU time to {} % of one CPU", share / 10));
    let limits: Vec<String> = memory.into_iter().chain(cpu).collect();
    format!("limit its cgroup's {}", limits.join(" and its "))
}

fn brakes(budget: &Budget) -> Vec<String> {
    vec![
        format!(
            "At most {} actions within {}, on at most {} targets and at most {} % of the known targets in scope (one is \
             always allowed).",
            budget.actions,
            duration(budget.window_ns),
            budget.blast_count,
            budget.blast_share_percent
        ),
        format!(
            "A target rests for {} after an action; the next step of a plan that failed need not wait for that.",
            duration(budget.cooldown_ns)
        ),
        format!(
            "Evidence older than {} moves nothing; a verb that failed twice in a row on an entity stops for an hour.",
            duration(budget.evidence_max_age_ns)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        explain(&Config::parse(text, "f.toml").expect("a valid policy")).join("\n")
    }

    #[test]
    fn the_default_touches_nothing_and_says_so() {
        let words = words("");
        assert!(words.contains("touches nothing") && words.contains("the scope is empty") && words.contains("no plan"));
    }

    #[test]
    fn a_mode_that_cannot_act_says_so() {
        assert!(words("mode = \"act\"").contains("without a plan"));
        let plan = "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\"}]\n";
        assert!(words(&format!("mode = \"act\"\n{plan}")).contains("refused as out_of_scope"));
        assert!(
            words(&format!("mode = \"act\"\n{plan}[scope]\ndevices = [\"vda\"]")).contains("refused as out_of_scope")
        );
        assert!(words(&format!("mode = \"act\"\n{plan}[scope]\nunits = [\"a.service\"]")).contains("repairs within"));
    }

    #[test]
    fn every_part_of_a_policy_is_in_its_words() {
        let words = words(
            "mode = \"act\"\nprotected = [\"ssh.service\", \"/vault\"]\n[scope]\nunits = [\"web.service\"]\n\
             cgroups = [\"/apps\"]\npeers = [\"10.0.0.0/8\"]\n[budget]\ncooldown = \"45s\"\n\
             [[plan]]\non = \"oom_kill\"\nentity = \"web*\"\nseverity = \"error\"\nsteps = [\
             {verb = \"limit-cgroup\", memory_percent = 70, cpu_percent = 50}, {verb = \"freeze-cgroup\", hold = \"3s\"}, \
             {verb = \"kill\", verify_for = \"11s\", timeout = \"7s\"}, {verb = \"restart-unit\"}, {verb = \"stop-unit\"}]",
        );
        for part in [
            "services web.service",
            "/apps",
            "10.0.0.0/8",
            "ssh.service, /vault",
            "PID 1",
            "Plan 1: on oom_kill of web*, if it is at least error:",
            "first, limit its cgroup's memory to 70 % of what it uses then and its CPU time to 50 % of one CPU",
            "if that failed, freeze its cgroup for 3s and thaw it again",
            "kill every process of its cgroup (kill, within 7s) and look at its health for 11s",
            "restart its unit",
            "stop its unit",
            "At most 5 actions within 10m",
            "45s",
        ] {
            assert!(words.contains(part), "{part} is not in:\n{words}");
        }
    }
}
