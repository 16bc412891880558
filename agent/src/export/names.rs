//! Names: ids in, what people call them out. Fed by the stream alone, so that a replay knows the same names.

use std::{collections::HashMap, sync::Arc};

use crate::{
    attribution::units::service_of,
    model::{
        entity::{Entity, Tree, comm_text, ip, unit_key},
        input::{CgroupName, DeviceName, TREE_MEMORY, TREE_PROCESS},
    },
};

/// The tables.
#[derive(Debug, Default)]
pub struct Names {
    cgroups: HashMap<(Tree, u64), Arc<str>>,
    units: HashMap<u64, Arc<str>>,
    devices: HashMap<u32, String>,
}

impl Names {
    /// Takes cgroup names in; a dead cgroup's name stays, its id is not used again.
    pub fn learn_cgroups(&mut self, names: &[CgroupName]) {
        for name in names {
            let path: Arc<str> = Arc::from(name.path.as_str());
            for (bit, tree) in [(TREE_PROCESS, Tree::Process), (TREE_MEMORY, Tree::Memory)] {
                if name.trees & bit != 0 {
                    self.cgroups.insert((tree, name.id), path.clone());
                }
            }
            if let Some(unit) = service_of(&path) {
                self.units.entry(unit_key(unit)).or_insert_with(|| Arc::from(unit));
            }
        }
    }

    /// Takes device names in.
    pub fn learn_devices(&mut self, names: &[DeviceName]) {
        for name in names {
            self.devices.insert(name.dev, name.name.clone());
        }
    }

    /// Path of a cgroup, if it is known.
    pub fn cgroup(&self, tree: Tree, id: u64) -> Option<&str> {
        self.cgroups.get(&(tree, id)).map(AsRef::as_ref)
    }

    /// Name of a device, or its numbers.
    pub fn device(&self, dev: u32) -> String {
        self.devices.get(&dev).cloned().unwrap_or_else(|| format!("{}:{}", dev >> 20, dev & 0xf_ffff))
    }

    /// Name of an entity.
    pub fn entity(&self, entity: &Entity) -> String {
        match entity {
            Entity::Executable(comm) => comm_text(comm),
            Entity::Process(pid) => pid.to_string(),
            Entity::Unit(key) => self.units.get(key).map_or_else(|| format!("unit#{key:016x}"), |u| u.to_string()),
            Entity::Cgroup(tree, id) => self.cgroup(*tree, *id).map_or_else(|| format!("cgroup#{id}"), str::to_owned),
            Entity::Device(dev) => self.device(*dev),
            Entity::Peer { address, v6 } => ip(address, *v6).to_string(),
        }
    }
}
