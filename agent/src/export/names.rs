//! Names: ids in, what people call them out. Fed by the stream alone, so that a replay knows the same names.
//! Bounded: on a node where cgroups come and go, the ones not spoken of for longest are forgotten.

use std::collections::BTreeMap;

use crate::{
    attribution::{
        names::NameTable,
        workload::{Workload, workload},
    },
    kernel_log::rules,
    model::{
        bounded::BoundedMap,
        entity::{Entity, Tree, comm_text, ip},
        input::{CgroupName, DeviceName, DropReason},
    },
};

/// Cgroups whose names are kept; a dead one keeps its name until that many others were named.
const CGROUPS: usize = 32_768;
/// Devices whose names are kept.
const DEVICES: usize = 4096;

/// The tables.
#[derive(Debug)]
pub struct Names {
    known: NameTable,
    devices: BoundedMap<u32, String>,
    reasons: BTreeMap<u32, String>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            known: NameTable::with_capacity(CGROUPS),
            devices: BoundedMap::with_capacity(DEVICES),
            reasons: BTreeMap::new(),
        }
    }
}

impl Names {
    /// Takes cgroup names in.
    pub fn learn_cgroups(&mut self, names: &[CgroupName]) {
        self.known.learn(names);
    }

    /// Takes device names in.
    pub fn learn_devices(&mut self, names: &[DeviceName]) {
        for name in names {
            let _ = self.devices.insert_or_evict(name.dev, name.name.clone());
        }
    }

    /// Takes the names of drop reasons in; they replace all earlier ones.
    pub fn learn_reasons(&mut self, reasons: &[DropReason]) {
        self.reasons = reasons.iter().map(|reason| (reason.number, reason.name.clone())).collect();
    }

    /// Name of a reason to drop a packet, or its number: a subsystem's own reasons are not in the core's list.
    pub fn reason(&self, number: u32) -> String {
        self.reasons.get(&number).cloned().unwrap_or_else(|| format!("{}:{}", number >> 16, number & 0xffff))
    }

    /// Keeps a name that is spoken of: the engine does the same with its own table and asks for a name only once.
    pub fn touch(&mut self, tree: Tree, id: u64) {
        self.known.touch(tree, id);
    }

    /// Path of a cgroup, if it is known.
    pub fn cgroup(&self, tree: Tree, id: u64) -> Option<&str> {
        self.known.cgroup(tree, id).map(AsRef::as_ref)
    }

    /// Name of a device, or its numbers.
    pub fn device(&self, dev: u32) -> String {
        self.devices.peek(&dev).cloned().unwrap_or_else(|| format!("{}:{}", dev >> 20, dev & 0xf_ffff))
    }

    /// What runs in a cgroup, where its path tells of a container or a pod.
    pub fn workload(&self, entity: &Entity) -> Option<Workload<'_>> {
        let Entity::Cgroup(tree, id) = entity else { return None };
        let found = workload(self.cgroup(*tree, *id)?);
        (found.pod.is_some() || found.container.is_some() || found.monitor.is_some()).then_some(found)
    }

    /// Name of an entity.
    pub fn entity(&self, entity: &Entity) -> String {
        match entity {
            Entity::Executable(comm) => comm_text(comm),
            Entity::Process(pid) => pid.to_string(),
            Entity::Unit(key) => self.known.unit(*key).map_or_else(|| format!("unit#{key:016x}"), |u| u.to_string()),
            Entity::Cgroup(tree, id) => self.cgroup(*tree, *id).map_or_else(|| format!("cgroup#{id}"), str::to_owned),
            Entity::Device(dev) => self.device(*dev),
            Entity::Peer { address, v6 } => ip(address, *v6).to_string(),
            Entity::Kernel { rule, subject } => {
                let rule = rules::at(*rule).map_or("unknown", |rule| rule.name);
                format!("{rule} {}", comm_text(subject)).trim_end().to_owned()
            }
        }
    }
}
