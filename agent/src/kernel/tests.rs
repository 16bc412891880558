//! Facts of fixture machines and of the one that runs the test.

use super::fixture::Fixture;
use super::*;

fn machine() -> Fixture {
    Fixture::new()
        .file("/proc/sys/kernel/osrelease", "6.12.48+deb13-cloud-amd64\n")
        .file("/proc/sys/kernel/random/boot_id", "0f6b2c9e-1d1c-4c7e-8f4a-5a3b8f0f2d11\n")
        .file("/sys/devices/system/cpu/possible", "0-3,8-11\n")
        .file("/proc/sys/kernel/unprivileged_bpf_disabled", "2\n")
        .file("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
        .link("/proc/self/ns/pid", HOST_PID_NS)
        .file("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")
        .file("/proc/self/mountinfo", "41 1 0:12 / /sys/kernel/tracing rw - tracefs tracefs rw\n")
        .file("/sys/kernel/btf/vmlinux", "12345")
}

#[test]
fn every_fact_of_a_whole_machine() {
    let fixture = machine();
    let facts = KernelFacts::gather(fixture.root());
    assert!(facts.unknown.is_empty(), "{:?}", facts.unknown);
    assert_eq!(facts.release, "6.12.48+deb13-cloud-amd64");
    assert_eq!(facts.possible_cpus, 12, "ids with a gap still index up to the highest");
    assert_eq!(facts.lockdown, Lockdown::Integrity);
    assert_eq!(facts.pid_namespace, PidNamespace::Host);
    assert_eq!(facts.unprivileged_bpf_disabled, Some(2));
    assert_eq!(facts.tracefs, Some(fixture.root().path("/sys/kernel/tracing")));
    assert_eq!(facts.btf_bytes, Some(5));
    assert!(facts.capabilities.has(Capability::SysResource));
}

#[test]
fn an_empty_machine_has_a_reason_for_every_fact() {
    let fixture = Fixture::new();
    let facts = KernelFacts::gather(fixture.root());
    let names: Vec<_> = facts.unknown.iter().map(|entry| entry.fact).collect();
    let expected = [
        "release",
        "boot_id",
        "possible_cpus",
        "lockdown",
        "pid_namespace",
        "capabilities",
        "unprivileged_bpf_disabled",
        "tracefs",
        "btf_bytes",
        "cgroups",
    ];
    assert_eq!(names, expected);
    assert_eq!((facts.possible_cpus, facts.lockdown), (0, Lockdown::Unknown));
    assert_eq!(facts.pid_namespace, PidNamespace::Unknown);
    assert_eq!(facts.why_unknown("page_size").map(ToString::to_string), None);
    let why = facts.why_unknown("possible_cpus").expect("a reason").to_string();
    assert!(why.contains(POSSIBLE), "{why}");
}

#[test]
fn lockdown_modes() {
    let with = |path: &str, text: &str| lockdown(Fixture::new().file(path, text).root()).ok();
    assert_eq!(with(LOCKDOWN, "[none] integrity confidentiality\n"), Some(Lockdown::None));
    assert_eq!(with(LOCKDOWN, "none integrity [confidentiality]\n"), Some(Lockdown::Confidentiality));
    assert_eq!(with(LOCKDOWN, "none integrity\n"), None);
    assert_eq!(with(LSM, "capability,yama,bpf"), Some(Lockdown::None), "securityfs without lockdown");
    assert_eq!(with(LSM, "lockdown,capability"), None, "lockdown is on and its file is missing: not known");
}

#[test]
fn odd_contents_are_unknown_and_shown() {
    let fixture = machine().file("/sys/devices/system/cpu/possible", "many\n");
    let facts = KernelFacts::gather(fixture.root());
    assert_eq!(facts.possible_cpus, 0);
    assert!(facts.why_unknown("possible_cpus").expect("a reason").to_string().contains("many"));
    for (text, expected) in [("0", Some(1)), ("0-1", Some(2)), ("0,2", Some(3)), ("", None), ("0-4294967295", None)] {
        let fixture = Fixture::new().file(POSSIBLE, text);
        assert_eq!(possible_cpus(fixture.root()).ok(), expected, "{text:?}");
    }
    let nested = Fixture::new().link("/proc/self/ns/pid", "pid:[4026532210]");
    assert_eq!(pid_namespace(nested.root()).ok(), Some(PidNamespace::Nested));
}

#[test]
fn paths_stay_under_the_root() {
    let root = Root::new("/tmp/x");
    assert_eq!(root.path("/proc/self"), Path::new("/tmp/x/proc/self"));
    assert_eq!(root.path("proc"), Path::new("/tmp/x/proc"));
    assert_eq!(Root::live().path("/proc"), Path::new("/proc"));
    assert!(Root::live().is_live() && !root.is_live());
}

#[test]
fn the_live_machine_states_the_basics() {
    let facts = KernelFacts::gather(&Root::live());
    assert!(!facts.release.is_empty() && facts.boot_id.len() == 36, "{facts:?}");
    assert!(facts.possible_cpus >= 1 && facts.page_size.is_power_of_two());
}
