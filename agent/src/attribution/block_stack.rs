//! What a block device is part of. In: `/sys` and `/proc/self/mountinfo` below a [`Root`]. Out: per device, by the
//! number that events carry, its name, what lies below and above it, and what is mounted from it.
//!
//! A slow `vda` matters as `/var/lib/postgres`, and an error on `dm-3` as a failing `sdb`: the graph is therefore
//! closed both ways here, once, instead of walked at each question. Edges downwards are a device's slaves, the disk of
//! a partition, and the device that holds a loop device's file. Numbers are the kernel's own (`kernel::devices`).
//!
//! Sources: `block/genhd.c` and `block/holder.c` (`slaves`, `holders`), `block/partitions/core.c` (`partition`),
//! Documentation/ABI/testing/sysfs-block-dm, admin-guide/md.rst, `drivers/block/loop.c`, proc(5), and the btrfs manual
//! for `/sys/fs/btrfs/UUID/devices`. What a file does not tell is `None`: devices come and go while this reads.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
};

use crate::kernel::{DeviceKind, Root, devices};

mod graph;
mod mountinfo;
mod sysfs;

pub use mountinfo::{Mount, mounts};

/// Devices that are looked at.
const DEVICES: usize = 4096;
/// Mounts kept per device: bind mounts into containers can be thousands.
const MOUNTS: usize = 32;
/// The mount table of this process.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Who made a device-mapper device, by the prefix of its uuid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmKind {
    /// A logical volume.
    Lvm,
    /// Encrypted by cryptsetup.
    Crypt,
    /// Checked by dm-verity.
    Verity,
    /// Several paths to one disk.
    Multipath,
    /// A partition made by kpartx.
    Partition,
    /// RAID of a BIOS.
    FirmwareRaid,
    /// Anything else, or without a uuid.
    Other,
}

/// A device-mapper device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dm {
    /// Name below `/dev/mapper`.
    pub name: String,
    /// Its uuid, with the prefix of whoever made it.
    pub uuid: Option<String>,
    /// Who that is.
    pub kind: DmKind,
    /// Whether all I/O waits, as `dmsetup suspend` makes it.
    pub suspended: Option<bool>,
}

/// A software RAID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Md {
    /// `raid1`, `linear`, ...
    pub level: Option<String>,
    /// `clean`, `active`, `readonly`, `inactive`, `broken`, ...
    pub state: Option<String>,
    /// Members missing; levels without redundancy do not tell.
    pub degraded: Option<u32>,
    /// `idle`, `resync`, `recover`, `check`, ...
    pub sync_action: Option<String>,
}

/// A block device and its surroundings. Devices are given by number, nearest first where they are several steps away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStack {
    /// Its number: `major << 20 | minor`, as in events.
    pub dev: u32,
    /// Its name in `/sys/block`, where `!` stands for a slash.
    pub name: String,
    /// What stands behind it; of a partition, behind its disk.
    pub kind: DeviceKind,
    /// The disk that it is a partition of.
    pub partition_of: Option<u32>,
    /// Device mapper.
    pub dm: Option<Dm>,
    /// Software RAID.
    pub md: Option<Md>,
    /// File of a loop device as this process sees it, or as the kernel does if it was deleted.
    pub backing_file: Option<String>,
    /// Devices it is made of.
    pub slaves: Vec<u32>,
    /// Devices made of it.
    pub holders: Vec<u32>,
    /// Everything that it stands on.
    pub below: Vec<u32>,
    /// Everything that stands on it.
    pub above: Vec<u32>,
    /// The part of [`Self::below`] that stands on nothing further; the device itself if it is such a one.
    pub disks: Vec<u32>,
    /// The other devices of the same btrfs.
    pub pool: Vec<u32>,
    /// What is mounted from it, whole file systems before parts of them; 32 at most.
    pub mounts: Vec<Mount>,
    /// How many mounts there are.
    pub mount_count: usize,
}

impl fmt::Display for BlockStack {
    /// `dm-0 (vg0-root)`, `md0 (raid1, 1 missing)`, `loop3 (/x.img)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(dm) = &self.dm {
            return write!(f, " ({})", dm.name);
        }
        if let Some(md) = &self.md {
            let level = md.level.as_deref().unwrap_or("RAID");
            return match md.degraded.filter(|missing| *missing > 0) {
                Some(missing) => write!(f, " ({level}, {missing} missing)"),
                None => write!(f, " ({level})"),
            };
        }
        self.backing_file.as_deref().map_or(Ok(()), |file| write!(f, " ({file})"))
    }
}

/// All block devices of a machine, by number. Empty without sysfs; without a mount table nothing is mounted.
pub fn stacks(root: &Root) -> BTreeMap<u32, BlockStack> {
    let mut edges = graph::Edges::default();
    let mut all = sysfs::read(root, &mut edges);
    let text = root.read(MOUNTINFO).unwrap_or_default();
    let mounts = mounts(&String::from_utf8_lossy(&text));
    put_mounts(&mut all, &mounts);
    for (dev, holder) in loop_files(&all, &mounts) {
        edges.add(dev, holder);
    }
    edges.close(&mut all);
    all
}

/// The disks below a mount, in order of their numbers. Empty where no block device is known to stand behind it.
pub fn disks_below(stacks: &BTreeMap<u32, BlockStack>, mount: &Mount) -> BTreeSet<u32> {
    let devices = devices_of(stacks, mount).into_iter().filter_map(|dev| stacks.get(&dev));
    devices.flat_map(|stack| stack.disks.iter().copied()).collect()
}

/// Devices that a file system lies on. Those of a btrfs have no number in common, so that its source has to tell; the
/// source of any other file system is whatever text the one who mounted it liked.
fn devices_of(stacks: &BTreeMap<u32, BlockStack>, mount: &Mount) -> Vec<u32> {
    if stacks.contains_key(&mount.dev) {
        return vec![mount.dev];
    }
    let node = mount.source.strip_prefix("/dev/").filter(|_| mount.fs_type == "btrfs");
    let named = |stack: &&BlockStack| {
        let dm = stack.dm.as_ref().map(|dm| dm.name.as_str());
        node == Some(stack.name.as_str()) || dm.is_some() && dm == node.and_then(|node| node.strip_prefix("mapper/"))
    };
    let first = stacks.values().find(named);
    first.map(|stack| [&[stack.dev], stack.pool.as_slice()].concat()).unwrap_or_default()
}

fn put_mounts(all: &mut BTreeMap<u32, BlockStack>, mounts: &[Mount]) {
    let (whole, parts): (Vec<&Mount>, Vec<&Mount>) = mounts.iter().partition(|mount| mount.root == "/");
    for mount in whole.into_iter().chain(parts) {
        for dev in devices_of(all, mount) {
            let Some(stack) = all.get_mut(&dev) else { continue };
            stack.mount_count += 1;
            if stack.mounts.len() < MOUNTS {
                stack.mounts.push(mount.clone());
            }
        }
    }
}

/// Loop devices with the devices that hold their files: those of the innermost mount above the file, and the last one
/// where several lie upon each other.
fn loop_files(all: &BTreeMap<u32, BlockStack>, mounts: &[Mount]) -> Vec<(u32, u32)> {
    let holding = |file: &str| {
        let above = mounts.iter().filter(|mount| Path::new(file).starts_with(&mount.point));
        above.max_by_key(|mount| mount.point.len()).map(|mount| devices_of(all, mount)).unwrap_or_default()
    };
    let loops = all.values().filter_map(|stack| Some((stack.dev, stack.backing_file.as_deref()?)));
    loops.flat_map(|(dev, file)| holding(file).into_iter().map(move |holder| (dev, holder))).collect()
}

#[cfg(test)]
#[path = "block_stack_tests.rs"]
mod tests;
