//! Names: ids in, what people call them out. Fed by the stream alone, so that a replay knows the same names.
//! Bounded: on a node where cgroups come and go, the ones not spoken of for longest are forgotten.

use std::sync::Arc;

use crate::{
    attribution::units::service_of,
    model::{
        bounded::BoundedMap,
        entity::{Entity, Tree, comm_text, ip, unit_key},
        input::{CgroupName, DeviceName, TREE_MEMORY, TREE_PROCESS},
    },
};

/// Cgroups whose names are kept; a dead one keeps its name until that many others were named.
const CGROUPS: usize = 32_768;
/// Units and devices whose names are kept.
const OTHERS: usize = 4096;

/// The tables.
#[derive(Debug)]
pub struct Names {
    cgroups: BoundedMap<(Tree, u64), Arc<str>>,
    units: BoundedMap<u64, Arc<str>>,
    devices: BoundedMap<u32, String>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            cgroups: BoundedMap::with_capacity(CGROUPS),
            units: BoundedMap::with_capacity(OTHERS),
            devices: BoundedMap::with_capacity(OTHERS),
        }
    }
}

impl Names {
    /// Takes cgroup names in.
    pub fn learn_cgroups(&mut self, names: &[CgroupName]) {
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

    /// Takes device names in.
    pub fn learn_devices(&mut self, names: &[DeviceName]) {
        for name in names {
            let _ = self.devices.insert_or_evict(name.dev, name.name.clone());
        }
    }

    /// Keeps a name that is spoken of: the engine does the same with its own table and asks for a name only once.
    pub fn touch(&mut self, tree: Tree, id: u64) {
        let _ = self.cgroups.get(&(tree, id));
    }

    /// Path of a cgroup, if it is known.
    pub fn cgroup(&self, tree: Tree, id: u64) -> Option<&str> {
        self.cgroups.peek(&(tree, id)).map(AsRef::as_ref)
    }

    /// Name of a device, or its numbers.
    pub fn device(&self, dev: u32) -> String {
        self.devices.peek(&dev).cloned().unwrap_or_else(|| format!("{}:{}", dev >> 20, dev & 0xf_ffff))
    }

    /// Name of an entity.
    pub fn entity(&self, entity: &Entity) -> String {
        match entity {
            Entity::Executable(comm) => comm_text(comm),
            Entity::Process(pid) => pid.to_string(),
            Entity::Unit(key) => self.units.peek(key).map_or_else(|| format!("unit#{key:016x}"), |u| u.to_string()),
            Entity::Cgroup(tree, id) => self.cgroup(*tree, *id).map_or_else(|| format!("cgroup#{id}"), str::to_owned),
            Entity::Device(dev) => self.device(*dev),
            Entity::Peer { address, v6 } => ip(address, *v6).to_string(),
        }
    }
}
