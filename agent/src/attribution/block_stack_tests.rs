//! Stacks as real machines have them, on a directory that stands for the machine, and the stacks of this host.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A machine in a temporary directory.
struct Machine {
    dir: PathBuf,
    minors: u32,
}

impl Machine {
    fn new() -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("faultline-stack-{}-{id}", std::process::id()));
        std::fs::create_dir_all(dir.join("sys/block")).expect("temporary directory");
        Self { dir, minors: 0 }
    }

    fn file(&mut self, path: &str, text: &str) {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("fixture directory");
        std::fs::write(path, text).expect("fixture file");
    }

    /// A device, with the next number of major 8.
    fn device(&mut self, path: &str) -> u32 {
        self.file(&format!("sys/block/{path}/dev"), &format!("8:{}\n", self.minors));
        self.minors += 1;
        8 << 20 | (self.minors - 1)
    }

    fn partition(&mut self, disk: &str, name: &str) -> u32 {
        self.file(&format!("sys/block/{disk}/{name}/partition"), "1\n");
        self.device(&format!("{disk}/{name}"))
    }

    /// The links that sysfs makes of it, seen from both ends.
    fn made_of(&mut self, path: &str, slave: &str) {
        let name = |path: &str| path.rsplit('/').next().expect("a name").to_owned();
        self.file(&format!("sys/block/{path}/slaves/{}", name(slave)), "");
        self.file(&format!("sys/block/{slave}/holders/{}", name(path)), "");
    }

    fn mounts(&mut self, text: &str) {
        self.file("proc/self/mountinfo", text);
    }

    fn stacks(&self) -> BTreeMap<u32, BlockStack> {
        stacks(&Root::new(&self.dir))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A leftover below the temporary directory harms nobody.
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn points(stack: &BlockStack) -> Vec<&str> {
    stack.mounts.iter().map(|mount| mount.point.as_str()).collect()
}

#[test]
fn lvm_on_crypt_on_raid_on_partitions() {
    let mut m = Machine::new();
    let (a, b) = (m.device("sda"), m.device("sdb"));
    let (a1, b1) = (m.partition("sda", "sda1"), m.partition("sdb", "sdb1"));
    let (md, crypt, lv) = (m.device("md0"), m.device("dm-0"), m.device("dm-1"));
    for (up, down) in [("md0", "sda/sda1"), ("md0", "sdb/sdb1"), ("dm-0", "md0"), ("dm-1", "dm-0")] {
        m.made_of(up, down);
    }
    for (file, text) in [("level", "raid1"), ("array_state", "clean"), ("degraded", "1"), ("sync_action", "idle")] {
        m.file(&format!("sys/block/md0/md/{file}"), &format!("{text}\n"));
    }
    m.file("sys/block/dm-0/dm/name", "luks-1\n");
    m.file("sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-5b3a-luks-1\n");
    m.file("sys/block/dm-1/dm/name", "vg0-data\n");
    m.file("sys/block/dm-1/dm/uuid", "LVM-abcdef\n");
    m.file("sys/block/dm-1/dm/suspended", "0\n");
    m.mounts("36 1 8:6 / /data rw,noatime shared:1 - ext4 /dev/mapper/vg0-data ro,errors=remount-ro\n");
    let all = m.stacks();

    assert_eq!(all[&lv].below, [crypt, md, a1, b1, a, b], "nearest first");
    assert_eq!(all[&lv].disks, [a, b]);
    assert_eq!(all[&b].above, [b1, md, crypt, lv]);
    assert_eq!((&all[&md].slaves, &all[&md].holders), (&vec![a1, b1], &vec![crypt]));
    assert_eq!((all[&a1].partition_of, all[&a].partition_of), (Some(a), None));
    assert_eq!((all[&a].kind, all[&a1].kind, all[&md].kind), (DeviceKind::Scsi, DeviceKind::Scsi, DeviceKind::Md));
    let raid = Md {
        level: Some("raid1".into()),
        state: Some("clean".into()),
        degraded: Some(1),
        sync_action: Some("idle".into()),
    };
    assert_eq!(all[&md].md, Some(raid));
    let dm = all[&lv].dm.as_ref().expect("a logical volume");
    assert_eq!((dm.name.as_str(), dm.kind, dm.suspended), ("vg0-data", DmKind::Lvm, Some(false)));
    let dm = all[&crypt].dm.as_ref().expect("a crypt device");
    assert_eq!((dm.kind, dm.suspended), (DmKind::Crypt, None), "a file that is absent is no answer");
    assert_eq!([md, lv, a].map(|dev| all[&dev].to_string()), ["md0 (raid1, 1 missing)", "dm-1 (vg0-data)", "sda"]);

    let mount = &all[&lv].mounts[0];
    assert_eq!((mount.point.as_str(), mount.fs_type.as_str()), ("/data", "ext4"));
    assert!(!mount.read_only && mount.fs_read_only, "the file system gave up, the mount did not ask for it");
    assert_eq!(disks_below(&all, mount), BTreeSet::from([a, b]));
    assert!(all[&a].mounts.is_empty(), "mounted from the volume, not from the disk");
}

#[test]
fn one_end_of_a_link_is_enough() {
    let mut m = Machine::new();
    let (disk, up, top) = (m.device("vda"), m.device("dm-0"), m.device("dm-1"));
    m.file("sys/block/vda/holders/dm-0", "");
    m.file("sys/block/vda/holders/gone", "");
    m.file("sys/block/dm-1/slaves/dm-0", "");
    let all = m.stacks();
    assert_eq!((&all[&up].slaves, &all[&disk].holders), (&vec![disk], &vec![up]));
    assert_eq!((&all[&top].slaves, &all[&up].holders), (&vec![up], &vec![top]));
}

#[test]
fn a_loop_device_stands_on_what_holds_its_file() {
    let mut m = Machine::new();
    let (root, data, image) = (m.device("vda"), m.device("vdb"), m.device("loop3"));
    let deleted = m.device("loop4");
    m.file("sys/block/loop3/loop/backing_file", "/data/images/a b.img\n");
    m.file("sys/block/loop4/loop/backing_file", "/database.img (deleted)\n");
    m.mounts(
        "1 0 8:0 / / rw - ext4 /dev/vda rw\n2 1 0:55 / /data rw - tmpfs x rw\n3 1 8:1 / /data rw - xfs /dev/vdb rw\n\
         4 1 8:2 / /mnt/image ro - squashfs /dev/loop3 ro\n",
    );
    let all = m.stacks();
    assert_eq!(all[&image].backing_file.as_deref(), Some("/data/images/a b.img"));
    assert_eq!((&all[&image].disks, &all[&image].slaves), (&vec![data], &vec![]));
    assert_eq!(all[&deleted].disks, [root], "/data is no parent of /database.img");
    assert_eq!(disks_below(&all, &all[&image].mounts[0]), BTreeSet::from([data]));
    assert!(all[&image].mounts[0].read_only);
    assert_eq!(all[&data].above, [image]);
    assert_eq!(all[&image].to_string(), "loop3 (/data/images/a b.img)");
}

#[test]
fn all_disks_of_a_btrfs_and_no_disk_of_a_liar() {
    let mut m = Machine::new();
    let (a, b, other) = (m.device("sda"), m.device("sdb"), m.device("dm-0"));
    m.file("sys/block/dm-0/dm/name", "vg-x\n");
    for name in ["sda", "sdb", "missing"] {
        m.file(&format!("sys/fs/btrfs/5b3a29f5/devices/{name}"), "");
    }
    m.file("sys/fs/btrfs/features/raid1c34", "1\n");
    m.mounts(
        "1 0 0:40 /@ / rw - btrfs /dev/sda rw,subvol=/@\n2 1 0:41 / /tmp rw - tmpfs /dev/sdb rw\n\
         3 1 0:42 / /x rw - btrfs /dev/mapper/vg-x rw\n4 1 0:43 / /n rw - nfs4 host:/dev/sda rw\n",
    );
    let all = m.stacks();
    assert_eq!((&all[&a].pool, &all[&b].pool), (&vec![b], &vec![a]));
    assert_eq!((points(&all[&a]), points(&all[&b]), points(&all[&other])), (vec!["/"], vec!["/"], vec!["/x"]));
    assert_eq!(disks_below(&all, &all[&a].mounts[0]), BTreeSet::from([a, b]));
    let liar = &mounts("2 1 0:41 / /tmp rw - tmpfs /dev/sdb rw")[0];
    assert!(disks_below(&all, liar).is_empty(), "anybody may call a tmpfs /dev/sdb");
}

#[test]
fn circles_and_depth_are_bounded() {
    let mut m = Machine::new();
    let devs: Vec<u32> = (0..40).map(|n| m.device(&format!("dm-{n}"))).collect();
    for n in 1..40 {
        m.made_of(&format!("dm-{n}"), &format!("dm-{}", n - 1));
    }
    let all = m.stacks();
    assert_eq!(all[&devs[39]].below.len(), 16);
    assert!(all[&devs[39]].disks.is_empty(), "unknown, since the walk ended before them");
    assert_eq!(all[&devs[10]].disks, [devs[0]]);
    m.made_of("dm-0", "dm-39");
    m.made_of("dm-5", "dm-5");
    let all = m.stacks();
    assert_eq!(all[&devs[5]].below.len(), 16);
    assert!(all.values().all(|stack| !stack.below.contains(&stack.dev) && !stack.above.contains(&stack.dev)));
}

#[test]
fn thousands_of_bind_mounts_leave_the_file_system_itself() {
    let mut m = Machine::new();
    let dev = m.device("vda");
    let binds: String = (0..500).map(|n| format!("{n} 1 8:0 /pods/{n} /run/{n} rw - ext4 /dev/vda rw\n")).collect();
    m.mounts(&format!("{binds}600 1 8:0 / /var rw - ext4 /dev/vda rw\n"));
    let stack = &m.stacks()[&dev];
    assert_eq!((stack.mounts.len(), stack.mount_count, stack.mounts[0].point.as_str()), (MOUNTS, 501, "/var"));
}

#[test]
fn a_machine_that_tells_nothing() {
    let mut m = Machine::new();
    assert!(m.stacks().is_empty());
    assert!(stacks(&Root::new(m.dir.join("nowhere"))).is_empty());
    let dev = m.device("cciss!c0d0");
    m.file("sys/block/broken/dev", "8\n");
    m.file("sys/block/cciss!c0d0/p9/partition", "9\n");
    m.file("sys/block/md3/dev", "9:3\n");
    m.file("sys/block/md3/md/degraded", "many\n");
    m.file("sys/block/md3/md/level", "\n");
    let all = m.stacks();
    assert_eq!(all.len(), 2, "without a number there is nothing to find it by: {all:?}");
    assert_eq!((all[&dev].name.as_str(), &all[&dev].disks), ("cciss!c0d0", &vec![dev]));
    let nothing = Md { level: None, state: None, degraded: None, sync_action: None };
    assert_eq!(all[&(9 << 20 | 3)].md, Some(nothing));
    assert_eq!(all[&(9 << 20 | 3)].to_string(), "md3 (RAID)");
}

#[test]
fn kinds_of_device_mapper() {
    let cases = [
        ("LVM-1kqWMeQW", DmKind::Lvm),
        ("CRYPT-LUKS1-x", DmKind::Crypt),
        ("CRYPT-VERITY-95-usr", DmKind::Verity),
        ("mpath-3600", DmKind::Multipath),
        ("part12-mpath-3600", DmKind::Partition),
        ("DMRAID-isw_x", DmKind::FirmwareRaid),
        ("party-mpath-1", DmKind::Other),
        ("part-mpath-1", DmKind::Other),
        ("MYLVM-1", DmKind::Other),
    ];
    for (uuid, kind) in cases {
        let mut m = Machine::new();
        let dev = m.device("dm-7");
        m.file("sys/block/dm-7/dm/name", "x\n");
        m.file("sys/block/dm-7/dm/uuid", uuid);
        assert_eq!(m.stacks()[&dev].dm.as_ref().map(|dm| dm.kind), Some(kind), "{uuid}");
    }
}

#[test]
fn numbers_are_those_of_events() {
    assert_eq!(devices::kernel_dev("254:16"), Some(254 << 20 | 16));
    assert_eq!(devices::kernel_dev("0:21"), Some(21));
    assert_eq!(devices::kernel_dev("4095:1048575"), Some(u32::MAX));
    for text in ["4096:0", "0:1048576", "8", "8:", ":1", "-1:0", "", "a:b"] {
        assert_eq!(devices::kernel_dev(text), None, "{text:?}");
    }
}

#[test]
fn mount_lines() {
    let text = "36 35 98:0 /mnt1 /mnt\\0402\\134x rw,noatime master:1 shared:7 - ext4 /dev/a\\043b rw,errors=continue\n\
                garbage\n\n37 35 8:1 / /ro ro,nosuid - fuseblk.ntfs  rw\n38 35 8:1 / /rox rw,rox - ext4 /dev/b romeo\n\
                39 35 8:1 / /cut rw shared:1 ext4 /dev/b rw\n40 35 x / /a rw - ext4 b rw\n\
                41 35 8:1 / /\\04é\\999\\777 rw - a b rw";
    let found = mounts(text);
    let first = Mount {
        dev: 98 << 20,
        root: "/mnt1".into(),
        point: "/mnt 2\\x".into(),
        fs_type: "ext4".into(),
        source: "/dev/a#b".into(),
        read_only: false,
        fs_read_only: false,
    };
    assert_eq!(found[0], first);
    let seen: Vec<_> = found[1..].iter().map(|m| (m.point.as_str(), m.read_only, m.fs_read_only)).collect();
    assert_eq!(seen, [("/ro", true, false), ("/rox", false, false), ("/\\04é\\999\\777", false, false)]);
    assert_eq!((found[1].source.as_str(), found[1].fs_type.as_str()), ("", "fuseblk.ntfs"));
}

/// What must hold on any machine, asked of this one.
#[test]
fn the_stacks_of_this_host() {
    let root = Root::live();
    let table = || root.read_trimmed(MOUNTINFO).expect("a mount table");
    let (before, all, after) = (table(), stacks(&root), table());
    for (dev, stack) in &all {
        assert_eq!(*dev, stack.dev);
        assert!(!stack.name.is_empty() && !stack.disks.is_empty(), "{stack:?}");
        assert!(stack.mounts.len() <= stack.mount_count);
        let linked = stack.below.iter().chain(&stack.above).chain(&stack.slaves).chain(&stack.holders);
        assert!(linked.clone().all(|other| all.contains_key(other) && other != dev), "{stack:?}");
        assert!(stack.below.iter().all(|low| all[low].above.contains(dev)), "{stack:?}");
    }
    assert_eq!(mounts(&before).len(), before.lines().count(), "every line of a real kernel reads");
    // What others mount and unmount meanwhile proves nothing.
    let lasting: Vec<&str> = before.lines().filter(|line| after.lines().any(|other| other == *line)).collect();
    for mount in mounts(&lasting.join("\n")) {
        let numbers = format!("{}:{}", mount.dev >> 20, mount.dev & 0xf_ffff);
        if root.path(format!("/sys/dev/block/{numbers}")).exists() {
            let stack = all.get(&mount.dev).unwrap_or_else(|| panic!("{numbers} has no name"));
            assert!(root.path(format!("/sys/class/block/{}", stack.name)).exists(), "{stack:?}");
            assert!(!disks_below(&all, &mount).is_empty() && stack.mount_count > 0, "{stack:?}");
        }
    }
}
