//! Places: names (as inputs) in; what an entity is, whether it may be touched, and which plans name it, out.
//!
//! All judging of names happens when a name arrives; what is kept is a few words per cgroup and unit, so that a
//! decision looks up and compares numbers. A **place** is what must not be acted upon twice at once: a unit with
//! everything inside its cgroup, or else one cgroup path. It outlives the cgroup ids that come and go with every
//! restart.
//!
//! What is in scope lives in tables of its own: cgroups and units that nobody may touch anyway cannot push it
//! out. There each path holds one id, its newest; outdated ids go where the strangers are, and the least recently
//! used of those give way. What was pushed out is unknown, and what is unknown is never touched.

use crate::{
    attribution::units::manager_unit,
    config::policy::{Pattern, Policy, Protected, Scope, is_within},
    model::{
        action::{Reason, Verb},
        bounded::BoundedMap,
        entity::{Entity, Tree, unit_key},
        input::{CgroupName, TREE_MEMORY, TREE_PROCESS},
        snapshot::{Loader, Saver, SnapshotError},
    },
};

/// Cgroups in scope, and others, remembered at the same time.
const CGROUPS: usize = 4096;
/// Units in scope, and others, remembered at the same time.
const UNITS: usize = 2048;
/// Cgroups that hold something protected. When these are too many to be remembered, all are protected.
const HOLDERS: usize = 4096;

/// What the name of a cgroup or unit said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Facts {
    /// Key of the path.
    path: u64,
    /// Key of the unit, where it is one of this node's own manager.
    unit: Option<u64>,
    /// Key of the place.
    place: u64,
    in_scope: bool,
    protected: bool,
    /// Bit n: the `entity` of plan n fits.
    plans: u64,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct UnitFacts {
    facts: Facts,
    /// Its living cgroup in the tree of processes.
    cgroup: Option<u64>,
}

/// What an action would touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) entity: Entity,
    pub(super) place: u64,
    in_scope: bool,
    protected: bool,
    /// Who is protected is known in full.
    complete: bool,
}

/// Two tables, of which the first holds only what is in scope.
#[derive(Debug)]
struct Tiered<K, V> {
    near: BoundedMap<K, V>,
    far: BoundedMap<K, V>,
}

impl<K: Copy + Eq + std::hash::Hash, V: Copy> Tiered<K, V> {
    fn new(capacity: usize) -> Self {
        Self { near: BoundedMap::with_capacity(capacity), far: BoundedMap::with_capacity(capacity) }
    }

    fn put(&mut self, key: K, value: V, near: bool) {
        let (home, other) = if near { (&mut self.near, &mut self.far) } else { (&mut self.far, &mut self.near) };
        other.remove(&key);
        home.insert_or_evict(key, value);
    }

    fn get(&self, key: &K) -> Option<V> {
        self.near.peek(key).or_else(|| self.far.peek(key)).copied()
    }

    /// What is in scope but no longer current makes room for what is.
    fn demote(&mut self, key: &K) {
        if let Some(value) = self.near.remove(key) {
            self.far.insert_or_evict(*key, value);
        }
    }
}

/// The tables of names.
#[derive(Debug)]
pub(super) struct Places {
    scope: Scope,
    protected: Vec<Protected>,
    /// `entity` of each plan.
    entities: Vec<Option<Pattern>>,
    cgroups: Tiered<(Tree, u64), Facts>,
    units: Tiered<u64, UnitFacts>,
    /// The newest id of each path in scope.
    newest: BoundedMap<(Tree, u64), u64>,
    /// Distinct places in scope, each with the trees it is in.
    known: BoundedMap<u64, u8>,
    /// Paths that hold something protected, themselves included.
    holders: BoundedMap<u64, ()>,
    /// The agent's own cgroups are known, and every holder fits its table. Else everything is protected.
    complete: bool,
}

impl Places {
    pub(super) fn new(policy: &Policy) -> Self {
        let mut places = Self {
            scope: policy.scope.clone(),
            protected: policy.protected.clone(),
            entities: policy.plans.iter().map(|plan| plan.entity.clone()).collect(),
            cgroups: Tiered::new(CGROUPS),
            units: Tiered::new(UNITS),
            newest: BoundedMap::with_capacity(CGROUPS),
            known: BoundedMap::with_capacity(CGROUPS),
            holders: BoundedMap::with_capacity(HOLDERS),
            complete: false,
        };
        for guarded in &policy.protected {
            if let Protected::Cgroup(path) = guarded {
                places.hold(path);
            }
        }
        places
    }

    /// Appends what was learned.
    pub(super) fn save(&self, to: &mut Saver<'_>) {
        for table in [&self.cgroups.near, &self.cgroups.far] {
            to.put(table);
        }
        for table in [&self.units.near, &self.units.far] {
            to.put(table);
        }
        to.put(&self.newest);
        to.put(&self.known);
        to.put(&self.holders);
        to.put(&self.complete);
    }

    /// Takes what [`Self::save`] wrote under the same policy.
    pub(super) fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        self.cgroups = Tiered { near: from.take()?, far: from.take()? };
        self.units = Tiered { near: from.take()?, far: from.take()? };
        (self.newest, self.known) = (from.take()?, from.take()?);
        (self.holders, self.complete) = (from.take()?, from.take()?);
        Ok(())
    }

    /// Cgroups of the agent, its guardian and PID 1: these, and whatever holds one, are never touched. Until they
    /// are known, nothing is.
    pub(super) fn learn_own(&mut self, paths: &[String]) {
        paths.iter().for_each(|path| self.hold(path));
        self.complete = self.holders.len() < HOLDERS;
    }

    /// Takes a name in.
    pub(super) fn learn_cgroup(&mut self, name: &CgroupName) {
        let facts = self.judge(&name.path);
        if facts.protected {
            // The path itself is judged by its name; what must be remembered is that those above hold it.
            self.hold_above(&name.path);
        }
        self.learn_unit(name, &facts);
        for (bit, tree) in [(TREE_PROCESS, Tree::Process), (TREE_MEMORY, Tree::Memory)] {
            if name.trees & bit != 0 {
                self.note(tree, name.id, facts);
            }
        }
        if facts.in_scope {
            let (trees, _) = self.known.entry_or_insert_with(facts.place, || 0);
            *trees |= name.trees;
        }
    }

    /// A cgroup was removed. Its name stays, for what is still said about it; it is no place any more.
    pub(super) fn forget(&mut self, name: &CgroupName) {
        let place = unit_key(&name.path);
        let Some(trees) = self.known.get_mut(&place) else { return };
        *trees &= !name.trees;
        if *trees == 0 {
            self.known.remove(&place);
        }
    }

    /// How many distinct places in scope there are.
    pub(super) fn known(&self) -> usize {
        self.known.len()
    }

    /// The place of a cgroup that is in scope.
    pub(super) fn place_in_scope(&self, tree: Tree, id: u64) -> Option<u64> {
        self.cgroups.get(&(tree, id)).filter(|facts| facts.in_scope).map(|facts| facts.place)
    }

    /// What lasts of an entity: the key of its path; `None` where it has no known name.
    pub(super) fn path_of(&self, entity: &Entity) -> Option<u64> {
        self.facts(entity).map(|facts| facts.path)
    }

    /// Whether the entity of plan `index` fits.
    pub(super) fn fits(&self, index: usize, entity: &Entity) -> bool {
        let Some(pattern) = self.entities.get(index).and_then(Option::as_ref) else { return true };
        match entity {
            Entity::Executable(comm) => pattern.matches(comm.split(|b| *b == 0).next().unwrap_or(comm)),
            _ => self.facts(entity).is_some_and(|facts| facts.plans & (1 << index) != 0),
        }
    }

    /// What `verb` would touch: for unit verbs the unit, for the others the cgroup.
    pub(super) fn target(&self, verb: Verb, entity: &Entity) -> Result<Target, Reason> {
        let wants_unit = matches!(verb, Verb::RestartUnit | Verb::StopUnit);
        let (entity, facts) = match entity {
            Entity::Unit(key) if wants_unit => self.unit(*key),
            Entity::Unit(key) => self.units.get(key).and_then(|unit| self.cgroup(Tree::Process, unit.cgroup?)),
            Entity::Cgroup(tree, id) if wants_unit => {
                self.cgroups.get(&(*tree, *id)).and_then(|facts| self.unit(facts.unit?))
            }
            Entity::Cgroup(tree, id) => self.cgroup(*tree, *id),
            Entity::Process(_) if verb == Verb::Kill => return Ok(process(*entity)),
            Entity::Process(_)
            | Entity::Executable(_)
            | Entity::Device(_)
            | Entity::Peer { .. }
            | Entity::Kernel { .. } => None,
        }
        .ok_or(Reason::NoTarget)?;
        let protected = facts.protected || self.holders.contains_key(&facts.path);
        Ok(Target { entity, place: facts.place, in_scope: facts.in_scope, protected, complete: self.complete })
    }

    fn unit(&self, key: u64) -> Option<(Entity, Facts)> {
        self.units.get(&key).map(|unit| (Entity::Unit(key), unit.facts))
    }

    fn cgroup(&self, tree: Tree, id: u64) -> Option<(Entity, Facts)> {
        self.cgroups.get(&(tree, id)).map(|facts| (Entity::Cgroup(tree, id), facts))
    }

    fn facts(&self, entity: &Entity) -> Option<Facts> {
        match entity {
            Entity::Unit(key) => self.units.get(key).map(|unit| unit.facts),
            Entity::Cgroup(tree, id) => self.cgroups.get(&(*tree, *id)),
            _ => None,
        }
    }

    fn note(&mut self, tree: Tree, id: u64, facts: Facts) {
        self.cgroups.put((tree, id), facts, facts.in_scope);
        if !facts.in_scope {
            return;
        }
        let (newest, _) = self.newest.entry_or_insert_with((tree, facts.path), || id);
        let older = std::mem::replace(newest, id);
        if older != id {
            self.cgroups.demote(&(tree, older));
        }
    }

    /// The unit whose cgroup this is, or in whose cgroup this lies.
    fn learn_unit(&mut self, name: &CgroupName, facts: &Facts) {
        let Some(key) = facts.unit else { return };
        let Some(path) = manager_unit(&name.path).map(|unit| unit.path) else { return };
        let is_the_unit = path == name.path && name.trees & TREE_PROCESS != 0;
        let before = self.units.get(&key).and_then(|unit| unit.cgroup);
        let unit = UnitFacts { facts: self.judge(path), cgroup: if is_the_unit { Some(name.id) } else { before } };
        self.units.put(key, unit, unit.facts.in_scope);
    }

    fn judge(&self, path: &str) -> Facts {
        let unit = manager_unit(path);
        let whole = is_root(path);
        let named = unit.is_some_and(|unit| self.scope.units.iter().any(|pattern| pattern.matches(unit.name)));
        let below = self.scope.cgroups.iter().any(|root| is_within(path, root));
        let name = unit.filter(|unit| !unit.nested).map(|unit| unit.name);
        Facts {
            path: unit_key(path),
            unit: name.map(unit_key),
            place: unit_key(unit.map_or(path, |unit| unit.path)),
            in_scope: !whole && (named || below),
            protected: whole || self.protected.iter().any(|guarded| is_guarded(guarded, path)),
            plans: self.plans_for(path, name),
        }
    }

    fn plans_for(&self, path: &str, unit: Option<&str>) -> u64 {
        let fits = |pattern: &Pattern| pattern.matches(path) || unit.is_some_and(|name| pattern.matches(name));
        let bit = |(index, entity): (usize, &Option<Pattern>)| u64::from(entity.as_ref().is_none_or(fits)) << index;
        self.entities.iter().enumerate().map(bit).fold(0, |all, one| all | one)
    }

    /// Protects a path and everything above it.
    fn hold(&mut self, path: &str) {
        self.hold_above(path);
        self.hold_one(path);
    }

    fn hold_above(&mut self, path: &str) {
        let above = path.char_indices().filter(|(at, c)| *c == '/' && *at > 0).map(|(at, _)| &path[..at]);
        above.chain(["/"]).for_each(|part| self.hold_one(part));
    }

    fn hold_one(&mut self, path: &str) {
        let full = self.holders.insert_or_evict(unit_key(path), ()).is_some();
        self.complete &= !full;
    }
}

impl Target {
    /// Scope and protection, in this order.
    pub(super) fn allowed(&self) -> Result<(), Reason> {
        match (self.in_scope, self.protected, self.complete) {
            (false, ..) => Err(Reason::OutOfScope),
            (true, true, _) => Err(Reason::Protected),
            (true, false, false) => Err(Reason::ProtectionUnknown),
            (true, false, true) => Ok(()),
        }
    }
}

/// A bare process belongs to no known cgroup, so no scope can name it.
fn process(entity: Entity) -> Target {
    Target { entity, place: 0, in_scope: false, protected: true, complete: true }
}

fn is_root(path: &str) -> bool {
    path.bytes().all(|b| b == b'/')
}

fn is_guarded(guarded: &Protected, path: &str) -> bool {
    match guarded {
        Protected::Unit(pattern) => path.split('/').any(|part| !part.is_empty() && pattern.matches(part)),
        Protected::Cgroup(root) => is_within(path, root),
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
