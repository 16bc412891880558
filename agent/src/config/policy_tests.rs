//! What a policy may be: the example of the reference is one, and every mistake names its place and the form
//! that was expected.

use super::*;
use crate::config::{Config, Mode, REFERENCE};

const EXAMPLE: &str = r#"
mode = "act"
protected = ["ssh.service", "/important.slice"]
[scope]
units = ["web.service", "batch-*.service"]
cgroups = ["/sub/tree"]
devices = ["vda"]
peers = ["10.0.0.0/8", "::1"]
[[plan]]
on = "crash_loop"
entity = "web.service"
class = "service_unavailability"
severity = "error"
steps = [{verb = "restart-unit", verify_for = "20s", timeout = "40s"}, {verb = "stop-unit"}]
[[plan]]
on = "oom_kill"
steps = [{verb = "limit-cgroup"}, {verb = "limit-cgroup", cpu_percent = 50}, {verb = "freeze-cgroup", hold = "2s"}]
[budget]
actions = 7
[budget.blast_radius]
count = 1
"#;

fn example() -> Policy {
    Config::parse(EXAMPLE, "f.toml").expect("the example is valid").policy
}

#[test]
fn every_key_arrives() {
    let policy = example();
    assert_eq!(Config::parse(EXAMPLE, "f.toml").map(|c| c.mode).ok(), Some(Mode::Act));
    assert!(policy.scope.units[1].matches("batch-7.service"));
    assert_eq!((policy.scope.cgroups.len(), policy.scope.devices.len(), policy.scope.peers.len()), (1, 1, 2));
    assert_eq!(policy.protected[1], Protected::Cgroup("/important.slice".into()));
    let restart = policy.plans[0].steps[0];
    assert_eq!((restart.verb, restart.verify_ns, restart.timeout_ns), (Verb::RestartUnit, 20 * SECOND, 40 * SECOND));
    assert_eq!((policy.plans[0].severity, policy.plans[1].severity), (Severity::Error, Severity::Info));
    let limits: Vec<_> = policy.plans[1].steps.iter().map(|s| (s.limit.memory_percent, s.limit.cpu_permille)).collect();
    assert_eq!(limits, [(Some(80), None), (None, Some(500)), (None, None)]);
    assert_eq!(policy.plans[1].steps[2].hold_ns, 2 * SECOND);
    assert_eq!((policy.budget.actions, policy.budget.blast_count), (7, 1));
}

#[test]
fn without_a_word_nothing_is_allowed() {
    let config = Config::default();
    assert_eq!(config.mode, Mode::Observe);
    assert!(config.policy.scope.is_empty() && config.policy.plans.is_empty());
}

#[test]
fn the_plans_in_the_comments_of_the_reference_are_plans() {
    let from = REFERENCE.find("# [[plan]]").expect("an example");
    let to = REFERENCE.find("[sensors]").expect("the next table");
    let lines = REFERENCE[from..to].lines().map(|line| line.trim_start_matches('#').trim_start());
    let text: String = lines.flat_map(|line| [line, "\n"]).collect();
    let policy = Config::parse(&text, "reference").expect("the commented example is valid").policy;
    assert_eq!(policy.plans.iter().map(|p| p.steps.len()).collect::<Vec<_>>(), [2, 3]);
}

/// Line of the mistake, key, text.
const MISTAKES: &[(usize, &str, &str)] = &[
    (2, "scope.units", "[scope]\nunits = [\"*\"]"),
    (2, "scope.units", "[scope]\nunits = [\"*.service\"]"),
    (2, "scope.units", "[scope]\nunits = [\"web\"]"),
    (2, "scope.units", "[scope]\nunits = [\"/system.slice/web.service\"]"),
    (2, "scope.cgroups", "[scope]\ncgroups = [\"/\"]"),
    (2, "scope.cgroups", "[scope]\ncgroups = [\"*\"]"),
    (2, "scope.cgroups", "[scope]\ncgroups = [\"/a/*\"]"),
    (2, "scope.cgroups", "[scope]\ncgroups = [\"/a/\"]"),
    (2, "scope.cgroups", "[scope]\ncgroups = [\"/a/../b\"]"),
    (2, "scope.cgroups", "[scope]\ncgroups = [\"a\"]"),
    (2, "scope.devices", "[scope]\ndevices = [\"*\"]"),
    (2, "scope.devices", "[scope]\ndevices = [\"/dev/vda\"]"),
    (2, "scope.peers", "[scope]\npeers = [\"0.0.0.0/0\"]"),
    (2, "scope.peers", "[scope]\npeers = [\"10.1.0.0/8\"]"),
    (1, "protected", "protected = [\"ssh\"]"),
    (1, "protected", "protected = [\"/\"]"),
    (2, "plan.on", "[[plan]]\non = \"fire\"\nsteps = [{verb = \"kill\"}]"),
    (2, "plan.on", "[[plan]]\non = \"disk_error\"\nsteps = [{verb = \"restart-unit\"}]"),
    (2, "plan.on", "[[plan]]\non = \"retransmit_storm\"\nsteps = [{verb = \"restart-unit\"}]"),
    (3, "plan.steps", "[[plan]]\non = \"oom_kill\"\nsteps = []"),
    (3, "plan.steps.verb", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"reboot\"}]"),
    (3, "plan.steps.verb", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"thaw-cgroup\"}]"),
    (3, "plan.steps.hold", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\", hold = \"1s\"}]"),
    (3, "plan.steps.hold", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"freeze-cgroup\", hold = \"1d\"}]"),
    (3, "plan.steps.cpu_percent", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\", cpu_percent = 5}]"),
    (
        3,
        "plan.steps.memory_percent",
        "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"limit-cgroup\", memory_percent = 0}]",
    ),
    (3, "plan.steps.verify_for", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\", verify_for = \"ever\"}]"),
    (3, "plan.steps.timeout", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\", timeout = \"0s\"}]"),
    (3, "plan.class", "[[plan]]\non = \"oom_kill\"\nclass = \"bad\"\nsteps = [{verb = \"kill\"}]"),
    (3, "plan.class", "[[plan]]\non = \"oom_kill\"\nclass = \"data_corruption\"\nsteps = [{verb = \"kill\"}]"),
    (3, "plan.severity", "[[plan]]\non = \"oom_kill\"\nseverity = \"bad\"\nsteps = [{verb = \"kill\"}]"),
    (3, "plan.entity", "[[plan]]\non = \"oom_kill\"\nentity = \"\"\nsteps = [{verb = \"kill\"}]"),
    (
        5,
        "plan.on",
        "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\"}]\n[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\"}]",
    ),
    (2, "budget.actions", "[budget]\nactions = 0"),
    (2, "budget.window", "[budget]\nwindow = \"1ms\""),
    (2, "budget.cooldown", "[budget]\ncooldown = \"2d\""),
    (2, "budget.evidence_max_age", "[budget]\nevidence_max_age = \"0s\""),
    (2, "budget.blast_radius.count", "[budget.blast_radius]\ncount = 0"),
    (2, "budget.blast_radius.share_percent", "[budget.blast_radius]\nshare_percent = 101"),
];

#[test]
fn a_mistake_names_file_line_key_and_what_is_expected() {
    for (line, key, text) in MISTAKES {
        let message = Config::parse(text, "f.toml").expect_err(text).to_string();
        assert!(message.starts_with(&format!("f.toml:{line}: {key} = ")), "{text}: {message}");
        assert!(message.contains("expected"), "{message}");
    }
}

#[test]
fn unknown_and_missing_keys_are_errors_with_a_line() {
    for (line, words, text) in [
        (2, "kind", "[scope]\nkind = []"),
        (2, "actoins", "[budget]\nactoins = 1"),
        (1, "steps", "[[plan]]\non = \"oom_kill\""),
        (3, "verb", "[[plan]]\non = \"oom_kill\"\nsteps = [{hold = \"1s\"}]"),
        (3, "shell", "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"kill\", shell = \"rm\"}]"),
    ] {
        let message = Config::parse(text, "f.toml").expect_err(text).to_string();
        assert!(message.starts_with(&format!("f.toml:{line}:")) && message.contains(words), "{text}: {message}");
    }
}

#[test]
fn a_scope_that_means_the_machine_says_so() {
    let message = Config::parse("[scope]\ncgroups = [\"/\"]", "f.toml").expect_err("refused").to_string();
    assert!(message.contains("never a whole-machine scope"), "{message}");
}
