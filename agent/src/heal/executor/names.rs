//! What the ids in a request are called. In: the same cgroup names that the engine hears, in the same order. Out: a unit's
//! name, a cgroup's path. The executor's own table: what is shared would need a lock, and a name that is not known yet is
//! a refusal, not a guess.

use std::sync::Arc;

use crate::{
    attribution::{names::NameTable, units::service_of},
    model::{
        entity::{Entity, Tree},
        input::CgroupName,
    },
};

/// Cgroups whose names are kept; the least recently named gives way, and a request for it is refused.
const CGROUPS: usize = 16_384;

/// The table.
#[derive(Debug)]
pub(super) struct Names(NameTable);

/// A target by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Unit(Arc<str>),
    Cgroup { tree: Tree, id: u64, path: Arc<str> },
}

impl Default for Names {
    fn default() -> Self {
        Self(NameTable::with_capacity(CGROUPS))
    }
}

impl Names {
    pub(super) fn learn(&mut self, names: &[CgroupName]) {
        self.0.learn(names);
    }

    /// `None`: it has no name here, or is nothing that the executor can act on: a bare pid is no identity, and processes
    /// are the business of the prepared handles.
    pub(super) fn of(&self, target: &Entity) -> Option<Named> {
        match *target {
            Entity::Unit(key) => self.0.unit(key).cloned().map(Named::Unit),
            Entity::Cgroup(tree, id) => {
                let path = self.0.cgroup(tree, id)?.clone();
                Some(Named::Cgroup { tree, id, path })
            }
            Entity::Executable(_)
            | Entity::Process(_)
            | Entity::Device(_)
            | Entity::Peer { .. }
            | Entity::Kernel { .. } => None,
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
