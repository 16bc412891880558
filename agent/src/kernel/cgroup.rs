//! In: the mount table. Out: which cgroup hierarchy is mounted where, and which of them a sensor is about.
//!
//! Three layouts exist in the field: v2 only (`/sys/fs/cgroup`), v1 only, and hybrid (v1 controllers with a v2 tree
//! at `/sys/fs/cgroup/unified`, in which few controllers or none live). A `cgroup` in an event is a path in *one* of
//! them: an OOM kill happens in the memory hierarchy, a slow request in the one that accounts I/O, and all else is
//! named by the tree in which the service manager sorts processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::mounts::{self, Mount};
use super::{FactError, Root};

/// Options of a v1 super block that are not controllers (`kernel/cgroup/cgroup-v1.c`, `cgroup1_show_options`, and
/// the generic ones). A list of what is *no* controller, since new controllers appear more often than new flags.
const V1_FLAGS: &[&str] =
    &["rw", "ro", "none", "noprefix", "xattr", "clone_children", "cpuset_v2_mode", "favordynmods", "seclabel"];

/// Generation of a cgroup hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One tree per controller set.
    V1,
    /// The unified tree.
    V2,
}

/// What a cgroup path is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Memory limits and OOM kills.
    Memory,
    /// Block I/O accounting and throttling.
    Io,
    /// Naming the unit or container a process belongs to.
    Process,
}

/// One hierarchy, chosen for a purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Directory of its root, ready for `std::fs`.
    pub root: PathBuf,
    /// v1 or v2.
    pub version: CgroupVersion,
    /// v1: the controller, or `name=systemd`, as `/proc/PID/cgroup` writes it. v2: `None`.
    pub controller: Option<&'static str>,
}

/// Where the cgroup hierarchies of this machine are mounted. Paths are ready for `std::fs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupLayout {
    /// The unified tree.
    pub v2: Option<PathBuf>,
    /// Controllers that the v2 root offers (`cgroup.controllers`); empty without v2.
    pub v2_controllers: BTreeSet<String>,
    /// Mount of each v1 controller; co-mounted ones share a path.
    pub v1: BTreeMap<String, PathBuf>,
    /// The v1 tree without controllers in which systemd sorts processes (`name=systemd`).
    pub systemd_v1: Option<PathBuf>,
}

impl CgroupLayout {
    /// Reads the layout under `root`.
    ///
    /// # Errors
    /// When the mount table cannot be read. No cgroup mount at all is an empty layout, not an error.
    pub fn gather(root: &Root) -> Result<Self, FactError> {
        let mut layout = Self::from_mounts(&mounts::list(root)?);
        let points = layout.v2.iter_mut().chain(layout.v1.values_mut()).chain(&mut layout.systemd_v1);
        for point in points {
            *point = root.path(&point);
        }
        if let Some(v2) = &layout.v2 {
            let controllers = std::fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default();
            layout.v2_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        Ok(layout)
    }

    fn from_mounts(mounts: &[Mount]) -> Self {
        let mut widest_first: Vec<&Mount> = mounts.iter().filter(|m| m.fs_type.starts_with("cgroup")).collect();
        // Stable: the earlier mount of two equal ones stays first.
        widest_first.sort_by_key(|mount| (width(&mount.source_root), mount.point.as_os_str().len()));
        let mut layout = Self::default();
        for mount in widest_first {
            match mount.fs_type.as_str() {
                "cgroup2" => _ = layout.v2.get_or_insert_with(|| mount.point.clone()),
                "cgroup" => layout.add_v1(mount),
                _ => {}
            }
        }
        layout
    }

    fn add_v1(&mut self, mount: &Mount) {
        for option in &mount.options {
            if option == "name=systemd" {
                self.systemd_v1.get_or_insert_with(|| mount.point.clone());
            } else if !option.contains('=') && !V1_FLAGS.contains(&option.as_str()) {
                self.v1.entry(option.clone()).or_insert_with(|| mount.point.clone());
            }
        }
    }

    /// The hierarchy in which paths for this purpose are named; `None` when none fits.
    pub fn hierarchy_for(&self, purpose: Purpose) -> Option<Hierarchy> {
        match purpose {
            Purpose::Memory => self.controller_or_v2("memory"),
            Purpose::Io => self.controller_or_v2("blkio"),
            Purpose::Process => self.v2_tree().or_else(|| v1_tree("name=systemd", self.systemd_v1.as_ref()?)),
        }
    }

    /// Which generation the memory controller works in; `None` if it is off, or not mounted.
    pub fn memory_version(&self) -> Option<CgroupVersion> {
        if self.v1.contains_key("memory") {
            return Some(CgroupVersion::V1);
        }
        self.v2_controllers.contains("memory").then_some(CgroupVersion::V2)
    }

    /// The hierarchy in which a controller really works, and no other: unlike [`Self::hierarchy_for`] this never names
    /// a tree in which the controller's files are missing.
    pub fn hierarchy_of(&self, controller: &'static str) -> Option<Hierarchy> {
        let v1 = self.v1.get(controller).and_then(|root| v1_tree(controller, root));
        v1.or_else(|| self.v2_tree().filter(|_| self.v2_controllers.contains(controller)))
    }

    /// v1 wins: a controller bound to a v1 hierarchy is absent from v2 (`rebind_subsystems`). The v2 tree is the
    /// answer also without that controller, since processes still have a path in it.
    fn controller_or_v2(&self, controller: &'static str) -> Option<Hierarchy> {
        self.v1.get(controller).and_then(|root| v1_tree(controller, root)).or_else(|| self.v2_tree())
    }

    /// The unified tree, with whatever controllers it has. Freezing and killing need none.
    pub fn v2_tree(&self) -> Option<Hierarchy> {
        let root = self.v2.clone()?;
        Some(Hierarchy { root, version: CgroupVersion::V2, controller: None })
    }
}

fn v1_tree(controller: &'static str, root: &Path) -> Option<Hierarchy> {
    Some(Hierarchy { root: root.to_owned(), version: CgroupVersion::V1, controller: Some(controller) })
}

/// Where a process sits in one hierarchy, from the text of its `/proc/PID/cgroup` (cgroups(7): lines of
/// `ID:CONTROLLERS:PATH`, `0::PATH` for v2). `None` when the hierarchy is not listed or the cgroup was removed.
pub fn path_in<'t>(proc_cgroup: &'t str, hierarchy: &Hierarchy) -> Option<&'t str> {
    proc_cgroup.lines().find_map(|line| {
        let (id, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let here = match hierarchy.controller {
            Some(controller) => controllers.split(',').any(|name| name == controller),
            None => id == "0" && controllers.is_empty(),
        };
        (here && !path.ends_with(" (deleted)")).then_some(path)
    })
}

/// Sort key by how much of a hierarchy a mount shows, most first. In a cgroup namespace `/` is this process's own
/// subtree and `/../..` (a bind of the host's tree) starts above it; `/docker/x` is somebody's part of it.
fn width(source_root: &Path) -> i64 {
    let mut ups = 0;
    for component in source_root.components() {
        match component {
            Component::RootDir => {}
            Component::ParentDir => ups += 1,
            _ => return 1,
        }
    }
    -ups
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
