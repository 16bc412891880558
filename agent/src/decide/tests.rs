//! The decider as a specification: each brake with and without, and the life of a plan.

mod stop;

use super::*;
use crate::model::{
    action::{Done, Outcome, Verified},
    entity::{Tree, unit_key},
    evidence::Evidence,
    fault::{Class, Severity},
    input::{TREE_MEMORY, TREE_PROCESS},
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

const SCOPE: &str = "[scope]\nunits = [\"web.service\", \"b*.service\"]\n";
const PLAN: &str = "[[plan]]\non = \"crash_loop\"\nsteps = [{verb = \"restart-unit\"}, {verb = \"stop-unit\"}]\n";
/// Brakes out of the way of what a test is not about.
const WIDE: &str =
    "[budget]\nactions = 100\ncooldown = \"0s\"\n[budget.blast_radius]\ncount = 100\nshare_percent = 100\n";

struct Bench {
    decider: Decider,
    said: Vec<Decided>,
}

impl Bench {
    /// In mode `act`, with the services web, b1..b9 and ssh.
    fn new(policy: &[&str]) -> Self {
        Self::in_mode("act", policy)
    }

    fn in_mode(mode: &str, policy: &[&str]) -> Self {
        let text = format!("mode = \"{mode}\"\n{}", policy.concat());
        let config = Config::parse(&text, "f.toml").expect("a valid policy");
        let mut bench = Self { decider: Decider::new(&config), said: Vec::new() };
        bench.decider.learn_own(&["/init.scope".into()]);
        bench.learn(1, "web");
        (1..10).for_each(|n| bench.learn(10 + n, &format!("b{n}")));
        bench.learn(30, "ssh");
        bench
    }

    fn learn(&mut self, id: u64, service: &str) {
        let path = format!("/system.slice/{service}.service");
        self.decider.learn_cgroup(&CgroupName { trees: TREE_PROCESS | TREE_MEMORY, id, path });
    }

    /// A signal of a crash loop with evidence of this moment.
    fn crash(&mut self, service: &str, at_ns: u64) -> Vec<String> {
        self.signal(&loops(service), at_ns)
    }

    fn signal(&mut self, fault: &Fault, at_ns: u64) -> Vec<String> {
        let fault = Fault { at_ns, cause_ns: Some(at_ns), ..*fault };
        self.decider.signal(&fault, at_ns, &mut |d| self.said.push(d));
        self.words()
    }

    fn tick(&mut self, now_ns: u64) -> Vec<String> {
        self.decider.tick(now_ns, &mut |d| self.said.push(d));
        self.words()
    }

    fn quiet(&mut self, fault: &Fault, state: State, now_ns: u64) -> Vec<String> {
        self.decider.quiet(&Fault { state, ..*fault }, now_ns, &mut |d| self.said.push(d));
        self.words()
    }

    fn done(&mut self, id: u64, now_ns: u64) -> Vec<String> {
        self.answer(Done { id, reason: None, started_ns: 1, finished_ns: 2 }, now_ns)
    }

    fn answer(&mut self, done: Done, now_ns: u64) -> Vec<String> {
        self.decider.done(&done, now_ns, &mut |d| self.said.push(d));
        self.words()
    }

    fn healthy(&mut self, id: u64, healthy: Option<bool>, now_ns: u64) -> Vec<String> {
        self.decider.verified(&Verified { id, healthy, now_ns }, now_ns, &mut |d| self.said.push(d));
        self.words()
    }

    /// What was said since the last call: `act 1 kill` or `line 1 kill executed [reason] [outcome]`.
    fn words(&mut self) -> Vec<String> {
        self.said.drain(..).map(|decided| word(&decided)).collect()
    }
}

fn word(decided: &Decided) -> String {
    match decided {
        Decided::Act(r) => format!("act {} {}", r.id, r.verb.name()),
        Decided::Line(a) => {
            let reason = a.reason.map_or("", Reason::name);
            let outcome = a.outcome.map_or("", Outcome::name);
            let line = format!("line {} {} {} {reason} {outcome}", a.id, a.verb.name(), a.decision.name());
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}

fn fault(id: u64, kind: Kind, entity: Entity) -> Fault {
    Fault {
        id,
        kind,
        class: if kind == Kind::OomKill { Class::ResourceExhaustion } else { Class::ServiceUnavailability },
        severity: Severity::Error,
        priority: 60,
        confidence: 1000,
        state: State::Open,
        entity,
        evidence: Evidence::EMPTY,
        opened_ns: 0,
        at_ns: 0,
        cause_ns: None,
    }
}

/// The crash loop of a service; its fault's id is made from its name.
fn loops(service: &str) -> Fault {
    let id = service.bytes().map(u64::from).sum();
    fault(id, Kind::CrashLoop, Entity::Unit(unit_key(&format!("{service}.service"))))
}

fn refused(words: &[String], reason: &str) -> bool {
    words.len() == 1 && words[0].ends_with(&format!("refused {reason}"))
}

fn acted(words: &[String]) -> bool {
    words.len() == 1 && words[0].starts_with("act ")
}

#[test]
fn a_restart_that_does_not_help_is_followed_by_a_stop() {
    let mut b = Bench::new(&[SCOPE, PLAN]);
    assert_eq!(b.crash("web", SECOND), ["act 1 restart-unit"]);
    assert!(b.crash("web", SECOND + 1).is_empty(), "one at a time");
    assert_eq!(b.done(1, 2 * SECOND), ["line 1 restart-unit executed"]);
    assert!(b.crash("web", 2 * SECOND).is_empty(), "evidence from before it was over");
    let next = b.crash("web", 3 * SECOND);
    assert_eq!(next, ["line 1 restart-unit executed failed", "act 2 stop-unit"], "no cool-down between steps");
    assert_eq!(b.done(2, 4 * SECOND), ["line 2 stop-unit executed"]);
    assert!(b.tick(14 * SECOND).is_empty());
    assert_eq!(b.healthy(2, Some(true), 14 * SECOND), ["line 2 stop-unit executed recovered"]);
    assert_eq!(b.crash("web", 60 * SECOND), ["act 3 restart-unit"], "a new illness starts the plan anew");
}

#[test]
fn a_bad_verdict_or_a_failed_action_leads_to_the_next_step_and_the_last_one_to_the_end() {
    let mut b = Bench::new(&[SCOPE, PLAN]);
    b.crash("web", SECOND);
    b.done(1, SECOND);
    let next = b.healthy(1, Some(false), 20 * SECOND);
    assert_eq!(next, ["line 1 restart-unit executed failed", "act 2 stop-unit"], "ill is evidence, and fresh");
    let job = Done { id: 2, reason: Some(Reason::JobFailed), started_ns: 1, finished_ns: 2 };
    let last = b.answer(job, 21 * SECOND);
    assert_eq!(last, ["line 2 stop-unit executed job_failed failed", "line 3 stop-unit refused plan_exhausted"]);
    assert!(b.crash("web", 22 * SECOND).is_empty() && b.tick(23 * SECOND).is_empty(), "said once");
}

#[test]
fn what_nobody_can_tell_stops_the_plan_until_the_fault_speaks_again() {
    for silent in [true, false] {
        let mut b = Bench::new(&[SCOPE, PLAN]);
        b.crash("web", SECOND);
        b.done(1, SECOND);
        let end = SECOND + 10 * SECOND + GRACE_NS;
        let told = if silent {
            assert!(b.tick(end - 1).is_empty());
            b.tick(end)
        } else {
            b.healthy(1, None, end)
        };
        assert_eq!(told, ["line 1 restart-unit executed unknown"]);
        assert!(b.tick(end + SECOND).is_empty());
        assert_eq!(b.crash("web", end + SECOND), ["act 2 stop-unit"]);
    }
}

#[test]
fn hands_that_never_answer_are_not_waited_for_for_ever() {
    let mut b = Bench::new(&[SCOPE, PLAN]);
    b.crash("web", SECOND);
    assert!(b.tick(SECOND + 30 * SECOND).is_empty());
    assert_eq!(b.tick(SECOND + 30 * SECOND + GRACE_NS), ["line 1 restart-unit executed timed_out unknown"]);
    assert!(b.done(1, 40 * SECOND).is_empty(), "too late: its line was printed");
}

#[test]
fn what_the_hands_refuse_is_refused_and_tried_again_with_the_next_signal() {
    let mut b = Bench::new(&[SCOPE, PLAN, WIDE]);
    b.crash("web", SECOND);
    let no = Done { id: 1, reason: Some(Reason::NoServiceManager), started_ns: 0, finished_ns: 0 };
    assert_eq!(b.answer(no, SECOND), ["line 1 restart-unit refused no_service_manager"]);
    assert_eq!(b.crash("web", 2 * SECOND), ["act 2 restart-unit"]);
}

const OOM: &str = "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"limit-cgroup\", memory_percent = 50}, \
    {verb = \"freeze-cgroup\", hold = \"5s\"}, {verb = \"kill\"}]\n";

#[test]
fn three_oom_kills_are_limited_frozen_and_thawed_and_killed() {
    let mut b = Bench::new(&[SCOPE, OOM]);
    let oom = fault(1, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1));
    assert_eq!(b.signal(&oom, SECOND), ["act 1 limit-cgroup"]);
    b.done(1, SECOND);
    assert_eq!(b.signal(&oom, 2 * SECOND), ["line 1 limit-cgroup executed failed", "act 2 freeze-cgroup"]);
    assert_eq!(b.done(2, 2 * SECOND), ["line 2 freeze-cgroup executed"]);
    assert!(b.signal(&oom, 3 * SECOND).is_empty(), "frozen; verification begins after the thaw");
    assert!(b.tick(7 * SECOND - 1).is_empty());
    assert_eq!(b.tick(7 * SECOND), ["act 3 thaw-cgroup"]);
    assert_eq!(b.done(3, 7 * SECOND), ["line 3 thaw-cgroup executed"]);
    let last = b.signal(&oom, 8 * SECOND);
    assert_eq!(last, ["line 2 freeze-cgroup executed failed", "line 3 thaw-cgroup executed failed", "act 4 kill"]);
    b.done(4, 8 * SECOND);
    assert_eq!(b.healthy(4, Some(true), 18 * SECOND), ["line 4 kill executed recovered"]);
}

#[test]
fn a_thaw_is_asked_for_until_it_is_done() {
    let mut b = Bench::new(&[SCOPE, "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"freeze-cgroup\"}]\n"]);
    let oom = fault(1, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1));
    b.signal(&oom, SECOND);
    b.done(1, SECOND);
    b.quiet(&oom, State::Closed, 2 * SECOND);
    assert_eq!(b.tick(6 * SECOND), ["act 2 thaw-cgroup"], "also when the fault is over");
    let full = Done { id: 2, reason: Some(Reason::QueueFull), started_ns: 0, finished_ns: 0 };
    assert_eq!(b.answer(full, 6 * SECOND), ["line 2 thaw-cgroup refused queue_full"]);
    assert_eq!(b.tick(7 * SECOND), ["act 3 thaw-cgroup"]);
    assert_eq!(b.done(3, 7 * SECOND), ["line 3 thaw-cgroup executed"]);
    let told = b.healthy(3, Some(true), 17 * SECOND);
    assert_eq!(told, ["line 1 freeze-cgroup executed recovered", "line 3 thaw-cgroup executed recovered"]);
}

#[test]
fn a_freeze_that_went_wrong_is_thawed_before_anything_else() {
    let plan = "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"freeze-cgroup\"}, {verb = \"kill\"}]\n";
    let oom = fault(1, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1));
    let mut b = Bench::new(&[SCOPE, plan]);
    b.signal(&oom, SECOND);
    let half = Done { id: 1, reason: Some(Reason::TimedOut), started_ns: 1, finished_ns: 2 };
    let told = b.answer(half, SECOND);
    assert_eq!(told, ["line 1 freeze-cgroup executed timed_out failed", "act 2 thaw-cgroup"]);
    let told = b.done(2, SECOND);
    assert_eq!(told, ["line 2 thaw-cgroup executed", "line 2 thaw-cgroup executed unknown", "act 3 kill"]);

    let mut b = Bench::new(&[SCOPE, plan]);
    b.signal(&oom, SECOND);
    let told = b.tick(100 * SECOND);
    assert_eq!(told, ["line 1 freeze-cgroup executed timed_out unknown", "act 2 thaw-cgroup"], "nobody knows");
}

#[test]
fn observe_says_what_act_would_do() {
    let mut b = Bench::in_mode("observe", &[SCOPE, PLAN]);
    assert_eq!(b.crash("web", SECOND), ["line 1 restart-unit dry_run"]);
    assert_eq!(b.crash("web", 2 * SECOND), ["line 2 stop-unit dry_run"]);
    assert_eq!(b.crash("web", 3 * SECOND), ["line 3 stop-unit refused plan_exhausted"]);
    assert!(b.crash("web", 4 * SECOND).is_empty() && b.tick(1000 * SECOND).is_empty());
}

#[test]
fn brake_evidence_age() {
    for (age, acts) in [("2s", false), ("4s", true)] {
        let age = format!("[budget]\nevidence_max_age = \"{age}\"\n");
        let mut b = Bench::new(&[SCOPE, PLAN, &age]);
        let late = Fault { cause_ns: Some(7 * SECOND), ..loops("web") };
        b.decider.signal(&late, 10 * SECOND, &mut |d| b.said.push(d));
        let words = b.words();
        assert!(if acts { acted(&words) } else { refused(&words, "evidence_too_old") }, "{words:?}");
    }
}

#[test]
fn brake_scope() {
    let mut b = Bench::new(&[PLAN]);
    assert!(refused(&b.crash("web", SECOND), "out_of_scope"), "an empty scope means nothing");
    assert!(b.crash("web", 2 * SECOND).is_empty(), "said once");
    assert!(refused(&Bench::new(&[SCOPE, PLAN]).crash("ssh", SECOND), "out_of_scope"));
    assert!(acted(&Bench::new(&["[scope]\nunits = [\"ssh.service\"]\n", PLAN]).crash("ssh", SECOND)));
}

#[test]
fn brake_protection() {
    let ssh = "[scope]\nunits = [\"ssh.service\"]\n";
    for guarded in ["ssh.service", "ss*.service", "/system.slice/ssh.service", "/system.slice", "system.slice"] {
        let guarded = format!("protected = [\"{guarded}\"]\n");
        assert!(refused(&Bench::new(&[&guarded, ssh, PLAN]).crash("ssh", SECOND), "protected"), "{guarded}");
    }
    assert!(acted(&Bench::new(&["protected = [\"db.service\"]\n", ssh, PLAN]).crash("ssh", SECOND)));
    let mut b = Bench::new(&[ssh, PLAN]);
    b.decider.learn_own(&["/system.slice/ssh.service/agent".into()]);
    assert!(refused(&b.crash("ssh", SECOND), "protected"), "it holds the agent itself");
}

#[test]
fn brake_target() {
    let everyone = fault(1, Kind::CrashLoop, Entity::Executable([b'x'; 16]));
    assert!(refused(&Bench::new(&[SCOPE, PLAN]).signal(&everyone, SECOND), "no_target"));
    let nameless = fault(1, Kind::CrashLoop, Entity::Unit(unit_key("b77.service")));
    assert!(refused(&Bench::new(&[SCOPE, PLAN]).signal(&nameless, SECOND), "no_target"));
}

#[test]
fn brake_busy() {
    let both = [SCOPE, PLAN, OOM, WIDE];
    let mut b = Bench::new(&both);
    let oom = fault(9, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1));
    b.crash("web", SECOND);
    assert!(refused(&b.signal(&oom, SECOND), "busy"), "the unit and its cgroup are one target");
    b.done(1, SECOND);
    assert!(b.tick(2 * SECOND).is_empty(), "still being verified");
    b.healthy(1, Some(true), 3 * SECOND);
    assert_eq!(b.tick(3 * SECOND), ["act 3 limit-cgroup"], "then its turn comes");
    assert!(acted(&Bench::new(&both).signal(&oom, SECOND)), "alone it would have been done at once");
}

#[test]
fn brake_cooldown() {
    let recovered = |policy: &[&str]| {
        let mut b = Bench::new(policy);
        b.crash("web", SECOND);
        b.done(1, SECOND);
        b.healthy(1, Some(true), 11 * SECOND);
        b
    };
    let mut b = recovered(&[SCOPE, PLAN]);
    assert!(refused(&b.crash("web", 30 * SECOND), "cooldown"));
    assert!(b.tick(30 * SECOND).is_empty());
    assert_eq!(b.tick(31 * SECOND), ["act 3 restart-unit"], "put off, and the evidence is still fresh");
    let mut b = recovered(&[SCOPE, PLAN]);
    b.crash("web", 20 * SECOND);
    assert!(refused(&b.tick(31 * SECOND), "evidence_too_old"), "put off for too long");
    let mut b = recovered(&[SCOPE, PLAN]);
    b.crash("web", 30 * SECOND);
    assert!(refused(&b.quiet(&loops("web"), State::Clearing, 30 * SECOND), "fault_cleared"));
    assert!(b.tick(31 * SECOND).is_empty());
    assert!(acted(&recovered(&[SCOPE, PLAN, WIDE]).crash("web", 30 * SECOND)));
}

#[test]
fn brake_budget() {
    for (actions, acts) in [(2, false), (3, true)] {
        let budget = format!(
            "[budget]\nactions = {actions}\nwindow = \"1m\"\n[budget.blast_radius]\ncount = 9\nshare_percent = 100\n"
        );
        let mut b = Bench::new(&[SCOPE, PLAN, &budget]);
        assert!(acted(&b.crash("b1", SECOND)) && acted(&b.crash("b2", 2 * SECOND)));
        let third = b.crash("b3", 61 * SECOND - 1);
        assert!(if acts { acted(&third) } else { refused(&third, "budget") }, "{third:?}");
        assert!(acted(&b.crash("b4", 61 * SECOND)), "the first left the window");
    }
}

#[test]
fn brake_blast_radius_as_a_number() {
    for (count, acts) in [(2, false), (3, true)] {
        let radius = format!("[budget.blast_radius]\ncount = {count}\nshare_percent = 100\n");
        let mut b = Bench::new(&[SCOPE, PLAN, &radius]);
        assert!(acted(&b.crash("b1", SECOND)) && acted(&b.crash("b2", SECOND)));
        let third = b.crash("b3", SECOND);
        assert!(if acts { acted(&third) } else { refused(&third, "blast_radius") }, "{third:?}");
        assert!(acted(&b.crash("b4", 602 * SECOND)), "the window is over");
    }
}

#[test]
fn brake_blast_radius_as_a_share() {
    // Ten places in scope are known.
    for (share, most) in [(1, 1), (19, 1), (20, 2), (35, 3)] {
        let budget = "[budget]\nactions = 100\n[budget.blast_radius]\ncount = 100\n";
        let radius = format!("{budget}share_percent = {share}\n");
        let mut b = Bench::new(&[SCOPE, PLAN, &radius]);
        let done = (1..10).filter(|n| acted(&b.crash(&format!("b{n}"), SECOND))).count();
        assert_eq!(done, most, "{share} %");
    }
}

/// Fails the restart of web, lets the fault close, and returns what the next crash leads to.
fn fail_restart(b: &mut Bench, at_ns: u64) -> Vec<String> {
    let words = b.crash("web", at_ns);
    let id = b.decider.last_id;
    b.answer(Done { id, reason: Some(Reason::JobFailed), started_ns: 1, finished_ns: 2 }, at_ns);
    b.quiet(&loops("web"), State::Closed, at_ns);
    words
}

#[test]
fn brake_breaker() {
    let restart = "[[plan]]\non = \"crash_loop\"\nsteps = [{verb = \"restart-unit\"}]\n";
    let mut b = Bench::new(&[SCOPE, restart, WIDE]);
    assert!(acted(&fail_restart(&mut b, SECOND)));
    assert!(acted(&fail_restart(&mut b, 2 * SECOND)));
    let words = b.crash("web", 3 * SECOND);
    assert!(words[0].ends_with("refused breaker_open") && words[1].ends_with("refused plan_exhausted"), "{words:?}");
    assert!(acted(&b.crash("b1", 3 * SECOND)), "another entity has a breaker of its own");
    b.quiet(&loops("web"), State::Closed, 4 * SECOND);
    assert!(acted(&b.crash("web", 2 * SECOND + brakes::OPEN_FOR_NS)), "closed again after an hour");
}

#[test]
fn a_breaker_lets_the_next_step_through_and_closes_when_that_helped() {
    let mut b = Bench::new(&[SCOPE, PLAN, WIDE]);
    let fail = |b: &mut Bench, at: u64| {
        b.crash("web", at);
        let id = b.decider.last_id;
        b.answer(Done { id, reason: Some(Reason::JobFailed), started_ns: 1, finished_ns: 2 }, at);
    };
    for at in [SECOND, 3 * SECOND] {
        fail(&mut b, at);
        let id = b.decider.last_id;
        b.done(id, at);
        b.healthy(id, None, at);
        b.quiet(&loops("web"), State::Closed, at);
    }
    let words = b.crash("web", 5 * SECOND);
    assert!(words[0].ends_with("restart-unit refused breaker_open") && words[1].ends_with("stop-unit"), "{words:?}");
    let id = b.decider.last_id;
    b.done(id, 5 * SECOND);
    b.healthy(id, Some(true), 6 * SECOND);
    assert_eq!(b.crash("web", 7 * SECOND).len(), 1, "recovered by something else");
    assert!(b.decider.runs.iter().all(|(_, run)| run.phase == Phase::Asked && run.step == 0));
}

#[test]
fn brake_the_fault_still_stands() {
    let verdict = |clears: bool| {
        let mut b = Bench::new(&[SCOPE, PLAN]);
        b.crash("web", SECOND);
        b.done(1, SECOND);
        if clears {
            assert!(b.quiet(&loops("web"), State::Clearing, 9 * SECOND).is_empty());
        }
        b.healthy(1, Some(false), 11 * SECOND)
    };
    assert_eq!(verdict(false)[1], "act 2 stop-unit");
    assert_eq!(verdict(true)[1], "line 2 stop-unit refused fault_cleared");
}

#[test]
fn the_first_plan_that_matches_wins() {
    let text = "[[plan]]\non = \"crash_loop\"\nentity = \"b1.service\"\nsteps = [{verb = \"kill\"}]\n\
        [[plan]]\non = \"crash_loop\"\nseverity = \"critical\"\nsteps = [{verb = \"stop-unit\"}]\n";
    let mut b = Bench::new(&[SCOPE, text, PLAN, WIDE]);
    assert_eq!(b.crash("b1", SECOND), ["act 1 kill"]);
    assert_eq!(b.crash("b2", SECOND), ["act 2 restart-unit"]);
    let worse = Fault { severity: Severity::Critical, ..loops("b3") };
    assert_eq!(b.signal(&worse, SECOND), ["act 3 stop-unit"]);
    let other = fault(7, Kind::ProcessCrash, Entity::Unit(unit_key("web.service")));
    assert!(b.signal(&other, SECOND).is_empty(), "no plan, no word");
}

#[test]
fn a_unit_that_dies_again_in_a_new_cgroup_is_not_healed() {
    let text = "[[plan]]\non = \"oom_kill\"\nsteps = [{verb = \"restart-unit\"}, {verb = \"stop-unit\"}]\n";
    let mut b = Bench::new(&[SCOPE, text]);
    assert_eq!(b.signal(&fault(1, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1)), SECOND), ["act 1 restart-unit"]);
    b.done(1, SECOND);
    b.learn(77, "web");
    let again = b.signal(&fault(2, Kind::OomKill, Entity::Cgroup(Tree::Memory, 77)), 3 * SECOND);
    assert_eq!(again, ["line 1 restart-unit executed failed", "act 2 stop-unit"]);
}

#[test]
fn the_exit_of_an_oom_victim_is_no_new_kill() {
    let mut b = Bench::new(&[SCOPE, OOM]);
    let oom = fault(1, Kind::OomKill, Entity::Cgroup(Tree::Memory, 1));
    b.signal(&oom, SECOND);
    b.done(1, SECOND);
    let exit = Fault { at_ns: 2 * SECOND, cause_ns: None, ..oom };
    b.decider.signal(&exit, 2 * SECOND, &mut |d| b.said.push(d));
    assert!(b.words().is_empty());
}

#[test]
fn a_full_table_keeps_what_is_under_way() {
    let mut b = Bench::new(&[SCOPE, PLAN, WIDE]);
    b.crash("web", SECOND);
    for n in 0..2 * RUNS as u64 {
        let stranger = fault(1000 + n, Kind::CrashLoop, Entity::Unit(n));
        assert!(refused(&b.signal(&stranger, 2 * SECOND + n), "no_target"));
    }
    assert_eq!(b.decider.runs.len(), RUNS);
    assert_eq!(b.done(1, 3 * SECOND), ["line 1 restart-unit executed"]);
}
