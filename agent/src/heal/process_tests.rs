//! Who is taken for the process that was meant, and what happens to whom without that question.

use super::*;
use crate::heal::fixture::Sandbox;
use crate::model::action::Reason;

fn refused(identity: Identity) -> Reason {
    ProcessHandle::open(identity, &Protection::of_agent(None)).expect_err("a refusal").reason()
}

#[test]
fn a_recycled_pid_is_refused() {
    let Some(mut sandbox) = Sandbox::new(&[]) else { return };
    let pid = sandbox.process();
    let now = Identity::of(pid).expect("alive");
    // As if the evidence had been about an earlier process of that number.
    let before = Identity { start_ticks: now.start_ticks - 1, ..now.clone() };
    assert_eq!(refused(before), Reason::PidRecycled);
    let elsewhere = Identity { cgroup: Some("0::/of/somebody/else".into()), ..now };
    assert_eq!(refused(elsewhere), Reason::PidRecycled);
    assert!(!sandbox.is_dead(pid));
    // Believing whatever start time the number has now kills the stranger:
    let believed = Identity::of(pid).expect("alive");
    ProcessHandle::open(believed, &Protection::of_agent(None)).expect("open").kill().expect("killed");
    assert!(sandbox.dies_within_ms(pid, 1000));
}

#[test]
fn the_right_one_is_killed_and_then_gone() {
    let Some(mut sandbox) = Sandbox::new(&[]) else { return };
    let pid = sandbox.process();
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    let cgroup = text.lines().last().map(str::to_owned);
    let identity = Identity { cgroup, ..Identity::of(pid).expect("alive") };
    let handle = ProcessHandle::open(identity.clone(), &Protection::of_agent(None)).expect("open");
    assert!(!handle.wait_ms(0));
    handle.kill().expect("killed");
    assert!(handle.wait_ms(1000));
    assert!(sandbox.dies_within_ms(pid, 1000));
    assert_eq!(handle.kill().expect_err("it is over").reason(), Reason::TargetGone);
    assert_eq!(refused(identity), Reason::TargetGone);
}

#[test]
fn the_agent_its_parents_and_the_kernel_are_refused() {
    let own = Identity::of(std::process::id()).expect("we are alive");
    let parent = stat(own.pid).and_then(|stat| u32::try_from(stat.ppid).ok()).filter(|pid| *pid != 0);
    assert_eq!(refused(own), Reason::Protected);
    for pid in [Some(1), parent].into_iter().flatten() {
        assert_eq!(refused(Identity { pid, start_ticks: 0, cgroup: None }), Reason::Protected, "pid {pid}");
    }
    // A parent is no pid of the list: without the walk upwards it would pass.
    let judged = parent.filter(|pid| *pid != 1).map(|pid| Protection::of_agent(None).judge(pid).is_ok());
    assert_ne!(judged, Some(false));
}

#[test]
fn a_guardian_is_refused_until_it_is_none() {
    let Some(mut sandbox) = Sandbox::new(&[]) else { return };
    let pid = sandbox.process();
    let identity = Identity::of(pid).expect("alive");
    let guarded = Protection::of_agent(Some(pid));
    assert_eq!(ProcessHandle::open(identity.clone(), &guarded).expect_err("guarded").reason(), Reason::Protected);
    // Without that guard it is killed, and what that leads to: `without_a_guardian_the_harm_stays`.
    ProcessHandle::open(identity, &Protection::of_agent(None)).expect("open").kill().expect("killed");
    assert!(sandbox.dies_within_ms(pid, 1000));
}
