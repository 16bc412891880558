//! What the ids in a request are called. In: the same cgroup names that the engine hears, in the same order. Out: a unit's
//! name, a cgroup's path. The executor's own table: what is shared would need a lock, and a name that is not known yet is
//! a refusal, not a guess.

use std::sync::Arc;

use crate::{
    attribution::units::service_of,
    model::{
        bounded::BoundedMap,
        entity::{Entity, Tree, unit_key},
        input::{CgroupName, TREE_MEMORY, TREE_PROCESS},
    },
};

/// Cgroups whose names are kept; the least recently named gives way, and a request for it is refused.
const CGROUPS: usize = 16_384;
/// Units whose names are kept.
const UNITS: usize = 4096;

/// The tables.
#[derive(Debug)]
pub(super) struct Names {
    cgroups: BoundedMap<(Tree, u64), Arc<str>>,
    units: BoundedMap<u64, Arc<str>>,
}

/// A target by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Unit(Arc<str>),
    Cgroup { tree: Tree, id: u64, path: Arc<str> },
}

impl Default for Names {
    fn default() -> Self {
        Self { cgroups: BoundedMap::with_capacity(CGROUPS), units: BoundedMap::with_capacity(UNITS) }
    }
}

impl Names {
    pub(super) fn learn(&mut self, names: &[CgroupName]) {
        for name in names {
            let path: Arc<str> = Arc::from(name.path.as_str());
            for (bit, tree) in [(TREE_PROCESS, Tree::Process), (TREE_MEMORY, Tree::Memory)] {
                if name.trees & bit != 0 {
                    let _ = self.cgroups.insert_or_evict((tree, name.id), path.clone());
                }
            }
            if let Some(unit) = service_of(&path) {
                let _ = self.units.entry_or_insert_with(unit_key(unit), || Arc::from(unit));
            }
        }
    }

    /// `None`: it has no name here, or is nothing that the executor can act on: a bare pid is no identity, and processes
    /// are the business of the prepared handles.
    pub(super) fn of(&self, target: &Entity) -> Option<Named> {
        match *target {
            Entity::Unit(key) => self.units.peek(&key).cloned().map(Named::Unit),
            Entity::Cgroup(tree, id) => {
                let path = self.cgroups.peek(&(tree, id))?.clone();
                Some(Named::Cgroup { tree, id, path })
            }
            Entity::Executable(_) | Entity::Process(_) | Entity::Device(_) | Entity::Peer { .. } => None,
        }
    }
}

impl Named {
    /// For people.
    pub(super) fn name(&self) -> Arc<str> {
        match self {
            Self::Unit(name) => name.clone(),
            Self::Cgroup { path, .. } => path.clone(),
        }
    }

    /// One word for all that must not be acted upon at the same time: a cgroup of a service is that service.
    pub(super) fn lane(&self) -> Arc<str> {
        match self {
            Self::Unit(name) => name.clone(),
            Self::Cgroup { path, .. } => service_of(path).map_or_else(|| path.clone(), Arc::from),
        }
    }
}
