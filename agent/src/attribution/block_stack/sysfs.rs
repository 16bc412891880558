//! In: `/sys/block` and `/sys/fs/btrfs`. Out: each device by itself, and which is made of which.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::{BlockStack, DEVICES, Dm, DmKind, Md, Root, devices, graph::Edges};

/// Names of devices, as directories list them.
type Names = BTreeMap<String, u32>;

/// Reads all disks and their partitions.
pub(super) fn read(root: &Root, edges: &mut Edges) -> BTreeMap<u32, BlockStack> {
    let (mut all, mut dirs) = (BTreeMap::new(), Vec::new());
    for disk in devices::list(root).unwrap_or_default() {
        let dir = format!("/sys/block/{}", disk.name);
        let partitions = list(root, &dir).into_iter().map(|name| format!("{dir}/{name}"));
        let with_own = partitions.filter(|dir| root.path(format!("{dir}/partition")).exists());
        let found: Vec<_> = with_own.filter_map(|dir| Some((partition(root, &dir, &disk)?, dir))).collect();
        for (stack, dir) in [(whole(root, &dir, &disk), dir)].into_iter().chain(found) {
            if all.len() < DEVICES {
                dirs.push((stack.dev, dir));
                all.insert(stack.dev, stack);
            }
        }
    }
    let names: Names = all.values().map(|stack| (stack.name.clone(), stack.dev)).collect();
    for (dev, dir) in &dirs {
        let of =
            |listing| list(root, &format!("{dir}/{listing}")).into_iter().filter_map(|name| names.get(&name).copied());
        of("slaves").for_each(|slave| edges.add_slave(*dev, slave));
        of("holders").for_each(|holder| edges.add_slave(holder, *dev));
    }
    put_pools(root, &names, &mut all);
    all
}

fn whole(root: &Root, dir: &str, disk: &devices::BlockDevice) -> BlockStack {
    BlockStack {
        dm: dm(root, dir),
        md: md(root, dir),
        backing_file: text(root, dir, "loop/backing_file"),
        ..plain(disk.dev, &disk.name, disk)
    }
}

fn partition(root: &Root, dir: &str, disk: &devices::BlockDevice) -> Option<BlockStack> {
    let dev = devices::kernel_dev(&text(root, dir, "dev")?)?;
    let (_, name) = dir.rsplit_once('/')?;
    Some(BlockStack { partition_of: Some(disk.dev), ..plain(dev, name, disk) })
}

fn plain(dev: u32, name: &str, disk: &devices::BlockDevice) -> BlockStack {
    BlockStack {
        dev,
        name: name.to_owned(),
        kind: disk.kind,
        partition_of: None,
        dm: None,
        md: None,
        backing_file: None,
        slaves: Vec::new(),
        holders: Vec::new(),
        below: Vec::new(),
        above: Vec::new(),
        disks: Vec::new(),
        pool: Vec::new(),
        mounts: Vec::new(),
        mount_count: 0,
    }
}

fn dm(root: &Root, dir: &str) -> Option<Dm> {
    let uuid = text(root, dir, "dm/uuid");
    Some(Dm {
        name: text(root, dir, "dm/name")?,
        kind: uuid.as_deref().map_or(DmKind::Other, dm_kind),
        suspended: text(root, dir, "dm/suspended").map(|flag| flag == "1"),
        uuid,
    })
}

/// Prefixes of LVM2, cryptsetup, multipath-tools (kpartx: `part1-mpath-...`) and dmraid.
fn dm_kind(uuid: &str) -> DmKind {
    let digits_after = |prefix| {
        let rest = uuid.strip_prefix(prefix).and_then(|rest: &str| rest.split_once('-'));
        rest.is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match uuid {
        _ if uuid.starts_with("LVM-") => DmKind::Lvm,
        _ if uuid.starts_with("CRYPT-VERITY-") => DmKind::Verity,
        _ if uuid.starts_with("CRYPT-") => DmKind::Crypt,
        _ if uuid.starts_with("mpath-") => DmKind::Multipath,
        _ if uuid.starts_with("DMRAID-") => DmKind::FirmwareRaid,
        _ if digits_after("part") => DmKind::Partition,
        _ => DmKind::Other,
    }
}

fn md(root: &Root, dir: &str) -> Option<Md> {
    root.path(format!("{dir}/md")).is_dir().then(|| Md {
        level: text(root, dir, "md/level"),
        state: text(root, dir, "md/array_state"),
        degraded: text(root, dir, "md/degraded").and_then(|count| count.parse().ok()),
        sync_action: text(root, dir, "md/sync_action"),
    })
}

/// Tells each member of a btrfs of the others.
fn put_pools(root: &Root, names: &Names, all: &mut BTreeMap<u32, BlockStack>) {
    for uuid in list(root, "/sys/fs/btrfs") {
        let listed = list(root, &format!("/sys/fs/btrfs/{uuid}/devices"));
        let members: BTreeSet<u32> = listed.iter().filter_map(|name| names.get(name).copied()).collect();
        for dev in &members {
            if let Some(stack) = all.get_mut(dev) {
                stack.pool = members.iter().copied().filter(|other| other != dev).collect();
            }
        }
    }
}

/// Text of a file, unless it is absent or empty.
fn text(root: &Root, dir: &str, file: &str) -> Option<String> {
    root.read_trimmed(&format!("{dir}/{file}")).ok().filter(|text| !text.is_empty())
}

/// Names in a directory, sorted, so that the same machine always reads the same.
fn list(root: &Root, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(root.path(dir)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
