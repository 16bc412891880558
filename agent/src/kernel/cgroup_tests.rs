//! Cgroup layouts as real machines mount them: v2 only, v1 with co-mounted controllers, hybrid, inside containers.

use super::super::fixture::Fixture;
use super::*;

const V2_ONLY: &str = "\
24 1 0:22 / /proc rw,relatime shared:5 - proc proc rw
35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

const V1_CO_MOUNTED: &str = "\
30 23 0:25 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:26 / /sys/fs/cgroup/systemd rw,relatime shared:11 - cgroup cgroup rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd
32 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:14 - cgroup cgroup rw,cpu,cpuacct
33 30 0:30 / /sys/fs/cgroup/memory rw,relatime shared:15 - cgroup cgroup rw,memory
34 30 0:31 / /sys/fs/cgroup/blkio rw,relatime shared:16 - cgroup cgroup rw,blkio
";

const HYBRID_TAIL: &str = "41 30 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

fn gather(mountinfo: &str, v2_controllers: Option<(&str, &str)>) -> (Fixture, CgroupLayout) {
    let fixture = Fixture::new().file("/proc/self/mountinfo", mountinfo);
    let fixture = match v2_controllers {
        Some((point, controllers)) => fixture.file(&format!("{point}/cgroup.controllers"), controllers),
        None => fixture,
    };
    let layout = CgroupLayout::gather(fixture.root()).expect("mount table is there");
    (fixture, layout)
}

fn tree(layout: &CgroupLayout, purpose: Purpose) -> (PathBuf, CgroupVersion, Option<&'static str>) {
    let hierarchy = layout.hierarchy_for(purpose).expect("a hierarchy");
    (hierarchy.root, hierarchy.version, hierarchy.controller)
}

#[test]
fn v2_only_serves_every_purpose() {
    let (fixture, layout) = gather(V2_ONLY, Some(("/sys/fs/cgroup", "cpuset cpu io memory pids\n")));
    let root = fixture.root().path("/sys/fs/cgroup");
    for purpose in [Purpose::Memory, Purpose::Io, Purpose::Process] {
        assert_eq!(tree(&layout, purpose), (root.clone(), CgroupVersion::V2, None));
    }
    assert_eq!(layout.memory_version(), Some(CgroupVersion::V2));
    assert!(layout.v1.is_empty() && layout.systemd_v1.is_none());
}

#[test]
fn v1_names_processes_by_the_systemd_tree() {
    let (fixture, layout) = gather(V1_CO_MOUNTED, None);
    let at = |name: &str| fixture.root().path(format!("/sys/fs/cgroup/{name}"));
    assert_eq!(tree(&layout, Purpose::Memory), (at("memory"), CgroupVersion::V1, Some("memory")));
    assert_eq!(tree(&layout, Purpose::Io), (at("blkio"), CgroupVersion::V1, Some("blkio")));
    assert_eq!(tree(&layout, Purpose::Process), (at("systemd"), CgroupVersion::V1, Some("name=systemd")));
    assert_eq!(layout.v1["cpu"], layout.v1["cpuacct"]);
    assert_eq!(layout.v1.keys().collect::<Vec<_>>(), ["blkio", "cpu", "cpuacct", "memory"]);
    assert_eq!(layout.memory_version(), Some(CgroupVersion::V1));
}

#[test]
fn hybrid_keeps_v1_controllers_and_names_processes_by_v2() {
    let mountinfo = format!("{V1_CO_MOUNTED}{HYBRID_TAIL}");
    let (_fixture, layout) = gather(&mountinfo, Some(("/sys/fs/cgroup/unified", "hugetlb\n")));
    assert_eq!(tree(&layout, Purpose::Memory).1, CgroupVersion::V1);
    assert_eq!(tree(&layout, Purpose::Process).1, CgroupVersion::V2);
    assert_eq!(layout.memory_version(), Some(CgroupVersion::V1));
}

#[test]
fn v2_without_the_memory_controller_is_no_memory_controller() {
    let (_fixture, layout) = gather(V2_ONLY, Some(("/sys/fs/cgroup", "cpu io\n")));
    assert_eq!(layout.memory_version(), None);
    assert_eq!(tree(&layout, Purpose::Memory).1, CgroupVersion::V2, "processes still have a path there");
}

#[test]
fn the_mount_that_shows_most_wins() {
    let mountinfo = "\
50 1 0:30 /docker/x /part rw - cgroup2 cgroup2 rw
51 1 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
52 1 0:30 /../../.. /host/sys/fs/cgroup rw - cgroup2 cgroup2 rw
";
    let (fixture, layout) = gather(mountinfo, None);
    assert_eq!(layout.v2, Some(fixture.root().path("/host/sys/fs/cgroup")));
    let (fixture, layout) = gather(mountinfo.rsplit_once("52").expect("a third line").0, None);
    assert_eq!(layout.v2, Some(fixture.root().path("/sys/fs/cgroup")));
}

#[test]
fn no_cgroups_is_an_empty_layout_and_no_proc_an_error() {
    let (_fixture, layout) = gather("24 1 0:22 / /proc rw - proc proc rw\n", None);
    assert_eq!(layout, CgroupLayout::default());
    assert_eq!(layout.hierarchy_for(Purpose::Process), None);
    let empty = Fixture::new();
    assert!(CgroupLayout::gather(empty.root()).is_err());
}

#[test]
fn a_process_has_a_path_in_each_hierarchy() {
    let (_fixture, layout) = gather(&format!("{V1_CO_MOUNTED}{HYBRID_TAIL}"), Some(("/sys/fs/cgroup/unified", "")));
    let text = "9:name=systemd:/s\n4:memory:/m\n1:cpu,cpuacct:/c (deleted)\n0::/a:b\n";
    let path = |hierarchy: Option<Hierarchy>| path_in(text, &hierarchy.expect("mounted"));
    assert_eq!(path(layout.hierarchy_of("memory")), Some("/m"));
    assert_eq!(path(layout.hierarchy_of("cpu")), None, "a removed cgroup is no place");
    assert_eq!(path(layout.v2_tree()), Some("/a:b"), "a colon in a name");
    assert_eq!(layout.hierarchy_of("freezer"), None, "neither on v1 nor offered by v2");
}
