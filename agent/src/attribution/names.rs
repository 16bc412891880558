//! Names of cgroups and units: what the resolver told in, what an id or a key is called out. Bounded; the exporter and the
//! executor each have one of their own, since what is shared would need a lock.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::units::service_of;
use crate::model::{
    bounded::BoundedMap,
    entity::{Tree, unit_key},
    input::{CgroupName, TREE_MEMORY, TREE_PROCESS},
};

/// Units whose names are kept.
const UNITS: usize = 4096;

/// The tables.
#[derive(Debug)]
pub struct NameTable {
    cgroups: BoundedMap<(Tree, u64), Arc<str>>,
    units: BoundedMap<u64, Arc<str>>,
}

impl NameTable {
    /// For so many cgroups; the one not spoken of for longest gives way.
    pub fn with_capacity(cgroups: usize) -> Self {
        Self { cgroups: BoundedMap::with_capacity(cgroups), units: BoundedMap::with_capacity(UNITS) }
    }

    /// Takes names in.
    pub fn learn(&mut self, names: &[CgroupName]) {
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

    /// Keeps a name that is spoken of.
    pub fn touch(&mut self, tree: Tree, id: u64) {
        let _ = self.cgroups.get(&(tree, id));
    }

    /// Path of a cgroup, if it is known.
    pub fn cgroup(&self, tree: Tree, id: u64) -> Option<&Arc<str>> {
        self.cgroups.peek(&(tree, id))
    }

    /// Name of a unit, if it is known.
    pub fn unit(&self, key: u64) -> Option<&Arc<str>> {
        self.units.peek(&key)
    }
}
