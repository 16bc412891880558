//! In: which device is made of which. Out: for each, everything below and above. Bounded, also when sysfs was read
//! while devices moved and the edges run in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::BlockStack;

/// Steps that are followed each way. Real stacks are five deep (loop, file system, LVM, crypt, RAID, partition, disk).
const STEPS: usize = 16;

/// Numbers by number.
type Links = BTreeMap<u32, BTreeSet<u32>>;

/// The edges between devices.
#[derive(Default)]
pub(super) struct Edges {
    slaves: Links,
    holders: Links,
    down: Links,
    up: Links,
}

impl Edges {
    /// Notes that a device is made of another one.
    pub(super) fn add_slave(&mut self, dev: u32, slave: u32) {
        self.slaves.entry(dev).or_default().insert(slave);
        self.holders.entry(slave).or_default().insert(dev);
        self.add(dev, slave);
    }

    /// Notes that a device stands on another one.
    pub(super) fn add(&mut self, dev: u32, below: u32) {
        self.down.entry(dev).or_default().insert(below);
        self.up.entry(below).or_default().insert(dev);
    }

    /// Writes what follows from the edges.
    pub(super) fn close(mut self, all: &mut BTreeMap<u32, BlockStack>) {
        for stack in all.values() {
            if let Some(disk) = stack.partition_of {
                self.add(stack.dev, disk);
            }
        }
        for stack in all.values_mut() {
            let direct =
                |links: &Links| links.get(&stack.dev).map(|set| set.iter().copied().collect()).unwrap_or_default();
            (stack.slaves, stack.holders) = (direct(&self.slaves), direct(&self.holders));
            (stack.below, stack.above) = (reach(stack.dev, &self.down), reach(stack.dev, &self.up));
            let with_own = [stack.dev].into_iter().chain(stack.below.iter().copied());
            stack.disks = with_own.filter(|dev| !self.down.contains_key(dev)).collect();
        }
    }
}

/// Everything that links lead to, nearest first, without the start.
fn reach(from: u32, links: &Links) -> Vec<u32> {
    let (mut seen, mut found, mut level) = (BTreeSet::from([from]), Vec::new(), vec![from]);
    for _ in 0..STEPS {
        let next = level.iter().filter_map(|dev| links.get(dev)).flatten().copied();
        level = next.filter(|dev| seen.insert(*dev)).collect();
        found.extend_from_slice(&level);
    }
    found
}
