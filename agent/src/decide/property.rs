//! Random fault streams against random policies. An oracle that knows nothing of how the decider works keeps its
//! own books, from a table of names written by hand, and checks every request and line against them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::model::{
    action::{Done, Verified},
    entity::{Tree, unit_key},
    evidence::Evidence,
    fault::{Class, Severity},
    input::{TREE_MEMORY, TREE_PROCESS},
};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// The world: path, its unit's entry in this table, its place.
const WORLD: [(&str, Option<&str>, usize); 11] = [
    ("/system.slice/web.service", Some("web.service"), 0),
    ("/system.slice/web.service/sub", None, 0),
    ("/system.slice/b1.service", Some("b1.service"), 2),
    ("/system.slice/b2.service", Some("b2.service"), 3),
    ("/apps", None, 4),
    ("/apps/x", None, 5),
    ("/apps/x/y", None, 6),
    ("/system.slice/agent.service", Some("agent.service"), 7),
    ("/system.slice", None, 8),
    ("/", None, 9),
    ("/m.scope/system.slice/web.service", None, 10),
];

/// Scope entries, and what of the world each of them covers.
const SCOPES: [(bool, &str, &[usize]); 6] = [
    (true, "web.service", &[0, 1]),
    (true, "b*.service", &[2, 3]),
    (true, "agent.service", &[7]),
    (false, "/apps", &[4, 5, 6]),
    (false, "/apps/x", &[5, 6]),
    (false, "/system.slice", &[0, 1, 2, 3, 7, 8]),
];

/// Entries of `protected`, and what they cover or what holds that.
const GUARDS: [(&str, &[usize]); 3] =
    [("b2.service", &[3, 8, 9]), ("/apps/x/y", &[4, 5, 6, 9]), ("web.service", &[0, 1, 8, 9, 10])];

/// The agent's own unit, and what holds it.
const OWN: &[usize] = &[7, 8, 9];

const VERBS: [&str; 5] = ["kill", "freeze-cgroup", "limit-cgroup", "restart-unit", "stop-unit"];
const KINDS: [Kind; 3] = [Kind::CrashLoop, Kind::OomKill, Kind::ProcessCrash];

#[derive(Clone, Debug)]
struct Setting {
    act: bool,
    scopes: u8,
    guards: u8,
    plans: [Vec<usize>; 3],
    actions: usize,
    window_s: u64,
    cooldown_s: u64,
    age_ms: u64,
    count: usize,
    share: usize,
}

#[derive(Clone, Debug)]
enum Op {
    Signal { kind: usize, entry: usize, by_unit: bool, age_ms: u64 },
    Wait(u64),
    Answer { which: usize, how: u8 },
    Verify { which: usize, healthy: Option<bool> },
    Quiet { which: usize, closed: bool },
    Again { entry: usize },
}

fn any_setting() -> impl Strategy<Value = Setting> {
    let plan = || vec(0..VERBS.len(), 1..5);
    let numbers = (1..7_usize, 1..90_u64, 0..25_u64, 10..9000_u64, 1..5_usize, 1..=100_usize);
    let act = prop_oneof![4 => Just(true), 1 => Just(false)];
    (act, 0..64_u8, 0..8_u8, [plan(), plan(), plan()], numbers).prop_map(|(act, scopes, guards, plans, n)| Setting {
        act,
        scopes,
        guards,
        plans,
        actions: n.0,
        window_s: n.1,
        cooldown_s: n.2,
        age_ms: n.3,
        count: n.4,
        share: n.5,
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..3_usize, 0..12_usize, any::<bool>(), prop_oneof![3 => Just(0), 1 => 0..10_000_u64])
            .prop_map(|(kind, entry, by_unit, age_ms)| Op::Signal { kind, entry, by_unit, age_ms }),
        4 => prop_oneof![0..2000_u64, 0..40_000_u64].prop_map(Op::Wait),
        5 => (any::<usize>(), 0..6_u8).prop_map(|(which, how)| Op::Answer { which, how }),
        4 => (any::<usize>(), any::<Option<bool>>()).prop_map(|(which, healthy)| Op::Verify { which, healthy }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(which, closed)| Op::Quiet { which, closed }),
        1 => (0..WORLD.len()).prop_map(|entry| Op::Again { entry }),
    ]
}

/// What the oracle knows about an action that was asked for.
struct Asked {
    request: Request,
    place: usize,
    /// Lines with its id.
    lines: usize,
    /// Its outcome is known, or it was refused.
    over: bool,
}

type Collect<'a> = Box<dyn FnMut(Decided) + 'a>;

struct Oracle {
    setting: Setting,
    decider: Decider,
    now_ns: u64,
    asked: BTreeMap<u64, Asked>,
    /// When something was done or would have been, and where.
    spent: Vec<(u64, usize)>,
    faults: BTreeMap<(usize, usize, bool), Fault>,
    standing: BTreeSet<u64>,
    last_fault: u64,
    generation: u64,
}

impl Oracle {
    fn new(setting: &Setting) -> Self {
        let config = Config::parse(&text(setting), "random").expect("a valid policy");
        let mut oracle = Self {
            setting: setting.clone(),
            decider: Decider::new(&config),
            now_ns: 1000 * SECOND,
            asked: BTreeMap::new(),
            spent: Vec::new(),
            faults: BTreeMap::new(),
            standing: BTreeSet::new(),
            last_fault: 0,
            generation: 0,
        };
        oracle.decider.learn_own(&["/system.slice/agent.service".into(), "/".into()]);
        (0..WORLD.len()).for_each(|entry| oracle.learn(entry));
        oracle
    }

    fn learn(&mut self, entry: usize) {
        let id = self.generation * 100 + entry as u64;
        let path = WORLD[entry].0.to_owned();
        self.decider.learn_cgroup(&CgroupName { trees: TREE_PROCESS | TREE_MEMORY, id, path });
    }

    fn in_scope(&self, entry: usize) -> bool {
        chosen(&SCOPES, self.setting.scopes).any(|(_, _, covers)| covers.contains(&entry))
    }

    fn is_protected(&self, entry: usize) -> bool {
        OWN.contains(&entry) || chosen(&GUARDS, self.setting.guards).any(|(_, covers)| covers.contains(&entry))
    }

    /// The entry a target is about.
    fn entry(&self, target: &Entity) -> Option<usize> {
        match target {
            Entity::Cgroup(_, id) => Some((id % 100) as usize).filter(|entry| *entry < WORLD.len()),
            Entity::Unit(key) => WORLD.iter().position(|w| w.1.is_some_and(|unit| unit_key(unit) == *key)),
            _ => None,
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Signal { kind, entry, by_unit, age_ms } => self.signal(kind, entry, by_unit, age_ms),
            Op::Wait(ms) => {
                self.now_ns += ms * MS;
                self.ask(|decider, now_ns, out| decider.tick(now_ns, out));
            }
            Op::Answer { which, how } => self.answer(which, how),
            Op::Verify { which, healthy } => self.verify(which, healthy),
            Op::Quiet { which, closed } => self.quiet(which, closed),
            Op::Again { entry } => {
                self.generation += 1;
                self.learn(entry);
            }
        }
    }

    fn signal(&mut self, kind: usize, entry: usize, by_unit: bool, age_ms: u64) {
        let key = (kind, entry, by_unit);
        if !self.faults.contains_key(&key) {
            self.last_fault += 1;
            self.faults.insert(key, fault(self.last_fault, KINDS[kind], entity(entry, by_unit, self.generation)));
        }
        let evidence_ns = self.now_ns - age_ms * MS;
        let fault = Fault { at_ns: self.now_ns, cause_ns: Some(evidence_ns), ..self.faults[&key] };
        self.standing.insert(fault.id);
        let said = self.ask(|decider, now_ns, out| decider.signal(&fault, now_ns, out));
        let all_refused = said.iter().all(|d| matches!(d, Decided::Line(line) if line.decision == Decision::Refused));
        if all_refused {
            let again = self.ask(|decider, now_ns, out| decider.signal(&fault, now_ns, out));
            assert!(again.is_empty(), "a refusal is said once: {said:?} {again:?}");
        }
    }

    fn quiet(&mut self, which: usize, closed: bool) {
        let Some(key) = pick(self.faults.keys().copied(), which) else { return };
        let state = if closed { State::Closed } else { State::Clearing };
        let fault = Fault { state, ..self.faults[&key] };
        self.standing.remove(&fault.id);
        if closed {
            self.faults.remove(&key);
        }
        self.ask(|decider, now_ns, out| decider.quiet(&fault, now_ns, out));
    }

    fn answer(&mut self, which: usize, how: u8) {
        let waiting = self.asked.values().filter(|a| a.lines == 0).map(|a| a.request.id);
        let Some(id) = pick(waiting, which) else { return };
        let started_ns = if how == 0 { 0 } else { self.now_ns };
        let reason = match how {
            0 => Some(Reason::QueueFull),
            1 => Some(Reason::TimedOut),
            _ => None,
        };
        let done = Done { id, reason, started_ns, finished_ns: started_ns };
        self.ask(|decider, now_ns, out| decider.done(&done, now_ns, out));
        assert_eq!(self.asked[&id].lines.min(1), 1, "an answer is told");
    }

    fn verify(&mut self, which: usize, healthy: Option<bool>) {
        let waiting = self.asked.values().filter(|a| a.lines == 1 && !a.over).map(|a| a.request.id);
        let Some(id) = pick(waiting, which) else { return };
        let verified = Verified { id, healthy, now_ns: self.now_ns };
        self.ask(|decider, now_ns, out| decider.verified(&verified, now_ns, out));
    }

    /// Calls the decider and checks all it says.
    fn ask(&mut self, call: impl FnOnce(&mut Decider, u64, &mut Collect<'_>)) -> Vec<Decided> {
        let mut said = Vec::new();
        let mut push: Collect<'_> = Box::new(|decided| said.push(decided));
        call(&mut self.decider, self.now_ns, &mut push);
        drop(push);
        for decided in &said {
            match decided {
                Decided::Act(request) => self.check_act(request),
                Decided::Line(line) => self.check_line(line),
            }
        }
        said
    }

    fn check_act(&mut self, request: &Request) {
        assert!(self.setting.act, "observe touches nothing");
        let place = if request.verb == Verb::ThawCgroup {
            let freezes = |a: &&Asked| a.request.verb == Verb::FreezeCgroup && a.request.target == request.target;
            self.asked.values().rfind(freezes).expect("a thaw ends a freeze").place
        } else {
            assert!(self.now_ns - request.evidence_ns <= self.setting.age_ms * MS, "old evidence");
            let place = self.check_brakes(&request.target, request.fault);
            assert!(!self.asked.values().any(|a| !a.over && a.place == place), "two at once");
            place
        };
        let asked = Asked { request: *request, place, lines: 0, over: false };
        assert!(self.asked.insert(request.id, asked).is_none(), "ids are never used twice");
    }

    fn check_line(&mut self, line: &Action) {
        match line.decision {
            Decision::DryRun => {
                assert!(!self.setting.act && line.reason.is_none() && line.outcome.is_none());
                self.check_brakes(&line.target, line.fault);
            }
            Decision::Refused => assert!(line.reason.is_some() && line.outcome.is_none(), "{line:?}"),
            Decision::Executed => assert!(self.asked.contains_key(&line.id), "nobody asked for it"),
        }
        let Some(asked) = self.asked.get_mut(&line.id) else { return };
        assert_eq!(
            (line.verb, line.target, line.fault),
            (asked.request.verb, asked.request.target, asked.request.fault)
        );
        assert!(!asked.over, "a story goes on after its end");
        asked.lines += 1;
        assert!(asked.lines == 1 || line.outcome.is_some(), "one line when done, one when the outcome is known");
        asked.over = line.outcome.is_some() || line.decision == Decision::Refused;
    }

    /// Scope, protection, budget, blast radius, and that the fault stands.
    fn check_brakes(&mut self, target: &Entity, fault: u64) -> usize {
        let entry = self.entry(target).expect("a known target");
        assert!(self.in_scope(entry) && !self.is_protected(entry), "hands off {}", WORLD[entry].0);
        assert!(self.standing.contains(&fault), "the fault had cleared");
        let place = WORLD[entry].2;
        self.spent.push((self.now_ns, place));
        let since = self.setting.window_s * SECOND;
        let recent: Vec<_> = self.spent.iter().filter(|(at, _)| self.now_ns - at < since).collect();
        assert!(recent.len() <= self.setting.actions, "over budget");
        let hit: BTreeSet<_> = recent.iter().map(|(_, place)| *place).collect();
        let known: BTreeSet<_> = (0..WORLD.len()).filter(|e| self.in_scope(*e)).map(|e| WORLD[e].2).collect();
        let share = (known.len() * self.setting.share / 100).max(1);
        assert!(hit.len() <= self.setting.count.min(share), "blast radius");
        place
    }

    /// Lets everything come to its end: no action without its line, nothing left frozen.
    fn finish(&mut self) {
        for _ in 0..600 {
            self.now_ns += 700 * SECOND;
            self.ask(|decider, now_ns, out| decider.tick(now_ns, out));
        }
        for asked in self.asked.values() {
            assert!(asked.lines >= 1, "without a line: {:?}", asked.request);
            let thawed = |a: &Asked| a.request.verb == Verb::ThawCgroup && a.request.target == asked.request.target;
            let froze = asked.request.verb == Verb::FreezeCgroup && !(asked.lines == 1 && asked.over);
            assert!(!froze || self.asked.values().any(thawed), "left frozen");
        }
    }
}

fn chosen<T: Copy>(all: &[T], mask: u8) -> impl Iterator<Item = T> {
    all.iter().enumerate().filter(move |(n, _)| mask & (1 << n) != 0).map(|(_, item)| *item)
}

fn pick<T>(from: impl Iterator<Item = T>, which: usize) -> Option<T> {
    let mut all: Vec<T> = from.collect();
    if all.is_empty() { None } else { Some(all.swap_remove(which % all.len())) }
}

/// Entity of an entry; the one after the last is a stranger without a name.
fn entity(entry: usize, by_unit: bool, generation: u64) -> Entity {
    match WORLD.get(entry).map(|world| world.1) {
        Some(Some(unit)) if by_unit => Entity::Unit(unit_key(unit)),
        Some(_) => Entity::Cgroup(Tree::Memory, entry as u64 + 100 * generation),
        None if by_unit => Entity::Executable([b'x'; 16]),
        None => Entity::Process(77),
    }
}

fn fault(id: u64, kind: Kind, entity: Entity) -> Fault {
    Fault {
        id,
        kind,
        class: Class::ServiceUnavailability,
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

fn text(s: &Setting) -> String {
    let quoted = |names: Vec<&str>| names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
    let scope = |unit| quoted(chosen(&SCOPES, s.scopes).filter(|c| c.0 == unit).map(|c| c.1).collect());
    let steps =
        |verbs: &[usize]| verbs.iter().map(|v| format!("{{verb = \"{}\"}}", VERBS[*v])).collect::<Vec<_>>().join(", ");
    let plan = |(kind, verbs): (&Kind, &Vec<usize>)| {
        format!("[[plan]]\non = \"{}\"\nsteps = [{}]\n", kind.name(), steps(verbs))
    };
    let plans: String = KINDS.iter().zip(&s.plans).map(plan).collect();
    format!(
        "mode = \"{}\"\nprotected = [{}]\n[scope]\nunits = [{}]\ncgroups = [{}]\n{plans}[budget]\nactions = {}\n\
         window = \"{}s\"\ncooldown = \"{}s\"\nevidence_max_age = \"{}ms\"\n[budget.blast_radius]\ncount = {}\n\
         share_percent = {}\n",
        if s.act { "act" } else { "observe" },
        quoted(chosen(&GUARDS, s.guards).map(|g| g.0).collect()),
        scope(true),
        scope(false),
        s.actions,
        s.window_s,
        s.cooldown_s,
        s.age_ms,
        s.count,
        s.share,
    )
}

/// 10,000, unless the environment says otherwise.
fn cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig { cases: if told { default.cases } else { 10_000 }, ..default }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_stream_of_faults_gets_past_a_brake(setting in any_setting(), ops in vec(any_op(), 0..120)) {
        let mut oracle = Oracle::new(&setting);
        ops.iter().for_each(|op| oracle.step(op));
        oracle.finish();
    }
}

/// The streams above would be worth nothing if they never led to an action.
#[test]
fn such_streams_do_lead_to_actions() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..300 {
        let tree = (any_setting(), vec(any_op(), 0..120)).new_tree(&mut runner).expect("a stream");
        let (setting, ops) = tree.current();
        let mut oracle = Oracle::new(&setting);
        ops.iter().for_each(|op| oracle.step(op));
        for asked in oracle.asked.values() {
            *seen.entry(format!("{:?}", asked.request.verb)).or_default() += 1;
        }
    }
    assert!(seen.len() == Verb::ALL.len() && seen.values().all(|n| *n >= 20), "{seen:?}");
}
