//! The agent's end: what is under way gets its last word, and what is frozen its thaw.

use super::*;

impl Bench {
    fn stop(&mut self, now_ns: u64) -> Vec<String> {
        self.decider.stop(now_ns, &mut |d| self.said.push(d));
        self.words()
    }
}

#[test]
fn an_action_under_way_is_waited_for_and_its_outcome_is_unknown() {
    let mut b = Bench::new(&[SCOPE, PLAN, WIDE]);
    b.crash("web", SECOND);
    b.crash("b1", SECOND);
    b.done(2, 2 * SECOND);
    assert_eq!(b.stop(3 * SECOND), ["line 2 restart-unit executed unknown"], "nobody will be there to verify it");
    let told = b.done(1, 4 * SECOND);
    assert_eq!(told, ["line 1 restart-unit executed", "line 1 restart-unit executed unknown"]);
    assert!(refused(&b.crash("web", 5 * SECOND), "stopping"), "nothing new is begun");
}

#[test]
fn what_is_frozen_only_now_is_thawed_too() {
    let mut b = Bench::new(&[SCOPE, "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"freeze-cgroup\"}]\n"]);
    b.signal(&fault(1, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1)), SECOND);
    assert!(b.stop(2 * SECOND).is_empty());
    assert_eq!(b.done(1, 3 * SECOND), ["line 1 freeze-cgroup executed", "act 2 thaw-cgroup"]);
}

#[test]
fn what_is_frozen_is_thawed_at_once() {
    let mut b = Bench::new(&[SCOPE, OOM]);
    let oom = fault(1, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1));
    b.signal(&oom, SECOND);
    b.done(1, SECOND);
    b.signal(&oom, 2 * SECOND);
    b.done(2, 2 * SECOND);
    assert_eq!(b.stop(3 * SECOND), ["act 3 thaw-cgroup"], "two seconds before its time");
    let told = b.done(3, 3 * SECOND);
    let last = ["line 2 freeze-cgroup executed unknown", "line 3 thaw-cgroup executed unknown"];
    assert_eq!(told, [&["line 3 thaw-cgroup executed"][..], &last].concat());
}
