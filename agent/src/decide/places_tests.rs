//! What may be touched, by name.

use super::*;
use crate::config::Config;

fn places(policy: &str) -> Places {
    let config = Config::parse(policy, "f.toml").expect("a valid policy");
    let mut places = Places::new(&config.policy);
    places.learn_own(&["/system.slice/faultline.service".into(), "/init.scope".into()]);
    places
}

fn learn(places: &mut Places, id: u64, path: &str) -> Entity {
    places.learn_cgroup(&CgroupName { trees: TREE_PROCESS | TREE_MEMORY, id, path: path.into() });
    Entity::Cgroup(Tree::Memory, id)
}

fn kill(places: &Places, entity: &Entity) -> Result<(), Reason> {
    places.target(Verb::Kill, entity).and_then(|target| target.allowed())
}

const SCOPE: &str = "protected = [\"db*.service\", \"/apps/vault\"]\n\
    [scope]\nunits = [\"web.service\", \"db1.service\", \"faultline.service\"]\ncgroups = [\"/apps\", \"/system.slice\"]";

#[test]
fn the_scope_is_a_unit_with_its_cgroups_or_a_subtree() {
    let mut p = places("[scope]\nunits = [\"web.service\"]\ncgroups = [\"/apps\"]");
    for (id, path, allowed) in [
        (2, "/system.slice/web.service", Ok(())),
        (3, "/system.slice/web.service/worker", Ok(())),
        (4, "/apps", Ok(())),
        (5, "/apps/a/b", Ok(())),
        (6, "/appsy", Err(Reason::OutOfScope)),
        (7, "/system.slice", Err(Reason::OutOfScope)),
        (8, "/", Err(Reason::OutOfScope)),
        (9, "/machine.scope/system.slice/web.service", Err(Reason::OutOfScope)),
    ] {
        let entity = learn(&mut p, id, path);
        assert_eq!(kill(&p, &entity), allowed, "{path}");
    }
    assert_eq!(kill(&p, &Entity::Process(77)), Err(Reason::OutOfScope));
}

#[test]
fn what_holds_something_protected_is_protected() {
    let mut p = places(SCOPE);
    for (id, path, allowed) in [
        (2, "/system.slice/web.service", Ok(())),
        (3, "/system.slice/db1.service", Err(Reason::Protected)),
        (4, "/system.slice/db1.service/sub", Err(Reason::Protected)),
        (5, "/system.slice/faultline.service", Err(Reason::Protected)),
        (6, "/system.slice", Err(Reason::Protected)),
        (7, "/apps/vault/inner", Err(Reason::Protected)),
        (8, "/apps", Err(Reason::Protected)),
        (9, "/apps/other", Ok(())),
    ] {
        let entity = learn(&mut p, id, path);
        assert_eq!(kill(&p, &entity), allowed, "{path}");
    }
    let unprotected = SCOPE.replace("\"db*.service\", \"/apps/vault\"", "");
    let mut p = places(&unprotected);
    let entity = learn(&mut p, 3, "/system.slice/db1.service");
    assert_eq!(kill(&p, &entity), Ok(()), "without the brake it would be killed");
}

#[test]
fn a_parent_is_protected_as_soon_as_its_child_is_known() {
    let mut p = places("protected = [\"db.service\"]\n[scope]\ncgroups = [\"/apps\"]");
    let parent = learn(&mut p, 2, "/apps/group");
    assert_eq!(kill(&p, &parent), Ok(()));
    learn(&mut p, 3, "/apps/group/db.service");
    assert_eq!(kill(&p, &parent), Err(Reason::Protected));
}

#[test]
fn until_the_agent_knows_itself_everything_is_protected() {
    let config = Config::parse(SCOPE, "f.toml").expect("a valid policy");
    let mut p = Places::new(&config.policy);
    let entity = learn(&mut p, 2, "/system.slice/web.service");
    assert_eq!(kill(&p, &entity), Err(Reason::ProtectionUnknown));
    p.learn_own(&["/init.scope".into()]);
    assert_eq!(kill(&p, &entity), Ok(()));
}

#[test]
fn short_lived_protected_cgroups_do_not_use_up_the_table_but_too_many_parents_are_told() {
    let mut p = places("protected = [\"job*.service\"]\n[scope]\nunits = [\"web.service\"]");
    let web = learn(&mut p, 1, "/system.slice/web.service");
    for id in 0..2 * HOLDERS as u64 {
        learn(&mut p, 100 + id, &format!("/batch.slice/job-{id}.service"));
    }
    assert_eq!(kill(&p, &web), Ok(()), "siblings have one parent");
    for id in 0..2 * HOLDERS as u64 {
        learn(&mut p, 100_000 + id, &format!("/batch-{id}.slice/job-1.service"));
    }
    assert_eq!(kill(&p, &web), Err(Reason::ProtectionUnknown), "parents that were forgotten could be anybody");
}

#[test]
fn a_place_counts_while_it_is_there() {
    let mut p = places("[scope]\nunits = [\"web.service\", \"old.service\"]");
    learn(&mut p, 1, "/system.slice/web.service");
    learn(&mut p, 2, "/system.slice/old.service/sub");
    learn(&mut p, 3, "/system.slice/old.service");
    assert_eq!(p.known(), 2);
    let gone = |trees, path: &str| CgroupName { trees, id: 0, path: path.into() };
    p.forget(&gone(TREE_PROCESS | TREE_MEMORY, "/system.slice/old.service/sub"));
    assert_eq!(p.known(), 2, "the unit is still there");
    p.forget(&gone(TREE_MEMORY, "/system.slice/old.service"));
    assert_eq!(p.known(), 2, "its processes are still there");
    p.forget(&gone(TREE_PROCESS, "/system.slice/old.service"));
    assert_eq!(p.known(), 1, "the dead have no share");
    learn(&mut p, 4, "/system.slice/old.service");
    assert_eq!(p.known(), 2);
}

#[test]
fn unit_verbs_find_the_unit_and_cgroup_verbs_its_living_cgroup() {
    let mut p = places("[scope]\nunits = [\"web.service\"]");
    let old = learn(&mut p, 2, "/system.slice/web.service");
    learn(&mut p, 3, "/system.slice/web.service");
    let sub = learn(&mut p, 4, "/system.slice/web.service/sub");
    let unit = Entity::Unit(unit_key("web.service"));
    let target = |verb, entity: &Entity| p.target(verb, entity).map(|t| t.entity);
    assert_eq!(target(Verb::Kill, &unit), Ok(Entity::Cgroup(Tree::Process, 3)));
    assert_eq!(target(Verb::RestartUnit, &sub), Ok(unit));
    assert_eq!(target(Verb::RestartUnit, &old), Ok(unit), "a dead cgroup still belongs to its unit");
    assert_eq!(target(Verb::Kill, &Entity::Executable(*b"web\0\0\0\0\0\0\0\0\0\0\0\0\0")), Err(Reason::NoTarget));
    assert_eq!(target(Verb::Kill, &Entity::Cgroup(Tree::Memory, 99)), Err(Reason::NoTarget));
    assert_eq!(p.known(), 1, "one place, however many cgroups");
}

#[test]
fn a_unit_inside_a_container_is_not_the_units_namesake_outside() {
    let mut p = places("[scope]\nunits = [\"web.service\", \"pod.service\"]\ncgroups = [\"/machine.slice\"]");
    let inner = learn(&mut p, 2, "/machine.slice/c.scope/system.slice/web.service");
    assert_eq!(p.target(Verb::RestartUnit, &inner), Err(Reason::NoTarget));
    let inner = learn(&mut p, 3, "/system.slice/pod.service/system.slice/web.service");
    assert_eq!(p.target(Verb::RestartUnit, &inner), Err(Reason::NoTarget));
    assert_eq!(p.target(Verb::RestartUnit, &Entity::Unit(unit_key("web.service"))), Err(Reason::NoTarget));
}

#[test]
fn strangers_and_the_dead_do_not_push_out_what_is_in_scope() {
    let mut p = places("[scope]\nunits = [\"web.service\", \"loop.service\"]");
    let web = learn(&mut p, 1, "/system.slice/web.service");
    for id in 0..3 * CGROUPS as u64 {
        learn(&mut p, 100 + 2 * id, &format!("/user.slice/{id}"));
        learn(&mut p, 101 + 2 * id, "/system.slice/loop.service");
    }
    assert_eq!(kill(&p, &web), Ok(()));
    assert_eq!(p.target(Verb::RestartUnit, &web).map(|t| t.entity), Ok(Entity::Unit(unit_key("web.service"))));
}

#[test]
fn plans_name_units_paths_and_executables() {
    let steps = "steps = [{verb = \"kill\"}]";
    let plan = |entity: &str| format!("[[plan]]\non = \"oom_kill\"\nentity = \"{entity}\"\n{steps}\n");
    let mut p = places(&[plan("web.service"), plan("/apps/*"), plan("work*")].concat());
    let web = learn(&mut p, 2, "/system.slice/web.service/sub");
    let app = learn(&mut p, 3, "/apps/a");
    let worker = Entity::Executable(*b"worker\0\0\0\0\0\0\0\0\0\0");
    let fits = |entity: &Entity| [0, 1, 2].map(|plan| p.fits(plan, entity));
    assert_eq!(fits(&web), [true, false, false]);
    assert_eq!(fits(&app), [false, true, false]);
    assert_eq!(fits(&worker), [false, false, true]);
    assert_eq!(fits(&Entity::Unit(unit_key("web.service"))), [true, false, false]);
    assert_eq!(fits(&Entity::Cgroup(Tree::Memory, 9)), [false; 3]);
}
