//! Which cgroup is which unit. In: cgroup names (as inputs). Out: the unit whose main process an exit ended.
#![forbid(unsafe_code)]

use faultline_common::event::ProcessExit;

use crate::model::{
    bounded::BoundedMap,
    entity::{Tree, unit_key},
    event,
    input::{CgroupName, TREE_MEMORY, TREE_PROCESS},
    snapshot::{Loader, Saver, SnapshotError},
};

/// Cgroups remembered at the same time; the least recently used gives way and is asked for again.
const CGROUPS: usize = 16_384;
/// Cgroups remembered for each watched unit: a restart gives it a new one in each tree.
const PER_WATCHED: usize = 8;

/// A service unit as the detectors see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unit {
    /// Hash of its name, see [`unit_key`].
    pub key: u64,
    /// Whether the configuration names it in `watch.units`.
    pub watched: bool,
}

/// The table of cgroups.
#[derive(Debug)]
pub struct Units {
    watched: Vec<u64>,
    /// Apart, so that no churn of other cgroups can push a watched unit out.
    watched_cgroups: BoundedMap<(Tree, u64), Unit>,
    cgroups: BoundedMap<(Tree, u64), Option<Unit>>,
}

impl Units {
    /// With the names of `watch.units`.
    pub fn new(watched: &[String]) -> Self {
        Self {
            watched: watched.iter().map(|name| unit_key(name)).collect(),
            watched_cgroups: BoundedMap::with_capacity((watched.len() * PER_WATCHED).max(1)),
            cgroups: BoundedMap::with_capacity(CGROUPS),
        }
    }

    /// Appends what was learnt.
    pub fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.watched_cgroups);
        to.put(&self.cgroups);
    }

    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        (self.watched_cgroups, self.cgroups) = (from.take()?, from.take()?);
        Ok(())
    }

    /// Takes a name in.
    pub fn learn(&mut self, cgroup: &CgroupName) {
        let unit = service_of(&cgroup.path).map(|name| {
            let key = unit_key(name);
            Unit { key, watched: self.watched.contains(&key) }
        });
        for (bit, tree) in [(TREE_PROCESS, Tree::Process), (TREE_MEMORY, Tree::Memory)] {
            match unit.filter(|u| u.watched) {
                _ if cgroup.trees & bit == 0 => {}
                Some(watched) => _ = self.watched_cgroups.insert_or_evict((tree, cgroup.id), watched),
                None => _ = self.cgroups.insert_or_evict((tree, cgroup.id), unit),
            }
        }
    }

    /// Whether the id has a name.
    pub fn knows(&mut self, tree: Tree, id: u64) -> bool {
        self.look_up(tree, id).is_some()
    }

    /// The unit of a cgroup, if its name is known and it belongs to one. Keeps what is spoken of in the table.
    fn look_up(&mut self, tree: Tree, id: u64) -> Option<Option<Unit>> {
        let watched = self.watched_cgroups.get(&(tree, id)).copied().map(Some);
        watched.or_else(|| self.cgroups.get(&(tree, id)).copied())
    }

    /// The service whose main process ended: the process sat in the service's cgroup, and its parent in a known
    /// one outside the service. No look-up at the time of death, when there is nothing left to look at.
    /// A process whose parent died before it, and `ExecStartPre=` commands, look the same and count, too.
    pub fn main_process_of(&mut self, e: &ProcessExit) -> Option<Unit> {
        let own = e.header.cgroup_id;
        let parent_known = event::has(&e.header, const { ProcessExit::bit("parent_cgroup_id") });
        if own == 0 || !parent_known || e.parent_cgroup_id == own {
            return None;
        }
        let unit = self.look_up(Tree::Process, own)??;
        // A delegated service sorts its children into cgroups of its own: their parent is of the same unit.
        let parent = self.look_up(Tree::Process, e.parent_cgroup_id)?;
        parent.is_none_or(|parent| parent.key != unit.key).then_some(unit)
    }
}

/// The unit of this node's own service manager that a path lies in.
#[derive(Clone, Copy, Debug)]
pub struct ManagerUnit<'a> {
    /// Its name.
    pub name: &'a str,
    /// The path of its own cgroup.
    pub path: &'a str,
    /// Another manager's unit lies in between: a user's session or a container that boots.
    pub nested: bool,
}

/// The outermost service of a path, as long as nothing but slices lies above it: that is where systemd puts the
/// services that it can be asked about (systemd.slice(5)). Below a scope, or a folder of somebody else's (`/docker/ID`,
/// `/lxc.payload.NAME`, `/kubepods/...`), `nginx.service` is not the `nginx.service` that the manager would restart.
pub fn manager_unit(path: &str) -> Option<ManagerUnit<'_>> {
    let is_unit = |part: &str| part.ends_with(".service") || part.ends_with(".scope");
    let mut from = 0;
    for part in path.split('/') {
        let end = from + part.len();
        if part.ends_with(".service") {
            let nested = path[end..].split('/').any(is_unit);
            return Some(ManagerUnit { name: part, path: &path[..end], nested });
        }
        if !part.is_empty() && !part.ends_with(".slice") {
            return None;
        }
        from = end + 1;
    }
    None
}

/// The service of this node's own manager that a cgroup path belongs to. A unit of a user's manager or of a container
/// has the name that its owner likes, and may have that of a service of the node: it is none here.
pub fn service_of(path: &str) -> Option<&str> {
    manager_unit(path).filter(|unit| !unit.nested).map(|unit| unit.name)
}

#[cfg(test)]
mod tests {
    use faultline_common::event::Header;

    use super::*;

    #[test]
    fn services_are_found_in_paths() {
        assert_eq!(service_of("/system.slice/nginx.service"), Some("nginx.service"));
        assert_eq!(service_of("/user.slice/user-0.slice/user@0.service/app.slice/nginx.service"), None, "a namesake");
        assert_eq!(service_of("/system.slice/docker-1.scope/system.slice/nginx.service"), None, "a namesake");
        assert_eq!(service_of("/docker/0123/system.slice/nginx.service"), None, "a namesake, driver cgroupfs");
        assert_eq!(service_of("/lxc.payload.web/system.slice/nginx.service"), None, "a namesake");
        assert_eq!(service_of("/a.slice/a-b.slice/nginx.service"), Some("nginx.service"));
        assert_eq!(service_of("/user.slice/session-1.scope"), None);
        assert_eq!(service_of("/user.slice/user-0.slice/user@0.service/app.slice/term.scope"), None);
        assert_eq!(service_of("/user.slice/user-0.slice/user@0.service/init.scope"), None);
        assert_eq!(service_of("/system.slice/a.service/init"), Some("a.service"));
        assert_eq!(service_of("/"), None);
    }

    fn exit(cgroup_id: u64, parent_cgroup_id: u64, missing: u64) -> ProcessExit {
        let header = Header { ktime_ns: 0, cgroup_id, missing, sensor: 3, flags: 0, cpu: 0, len: 0, pad: 0 };
        ProcessExit { header, start_ns: 0, parent_cgroup_id, pid: 1, ppid: 1, uid: 0, exit_code: 256, comm: [0; 16] }
    }

    #[test]
    fn the_main_process_is_the_one_whose_parent_is_outside() {
        let mut units = Units::new(&["a.service".into()]);
        units.learn(&CgroupName { trees: TREE_PROCESS, id: 1, path: "/init.scope".into() });
        units.learn(&CgroupName { trees: TREE_PROCESS, id: 5, path: "/system.slice/a.service".into() });
        units.learn(&CgroupName { trees: TREE_PROCESS, id: 7, path: "/system.slice/a.service/sub".into() });
        assert_eq!(units.main_process_of(&exit(5, 1, 0)).map(|u| u.watched), Some(true));
        assert_eq!(units.main_process_of(&exit(5, 5, 0)), None, "a child of the service's own");
        let unknown_parent = const { ProcessExit::bit("parent_cgroup_id") };
        assert_eq!(units.main_process_of(&exit(5, 0, unknown_parent)), None, "unknown rather than a guess");
        assert_eq!(units.main_process_of(&exit(6, 1, 0)), None);
        assert_eq!(units.main_process_of(&exit(7, 5, 0)), None, "a child in a cgroup that the service delegated");
        assert_eq!(units.main_process_of(&exit(5, 99, 0)), None, "the parent's cgroup has no name");
    }

    #[test]
    fn churn_does_not_push_a_watched_unit_out() {
        let mut units = Units::new(&["a.service".into()]);
        units.learn(&CgroupName { trees: TREE_PROCESS, id: 5, path: "/system.slice/a.service".into() });
        for id in 100..100 + 2 * CGROUPS as u64 {
            units.learn(&CgroupName { trees: TREE_PROCESS, id, path: format!("/pods/{id}") });
        }
        units.learn(&CgroupName { trees: TREE_PROCESS, id: 1, path: "/init.scope".into() });
        assert_eq!(units.main_process_of(&exit(5, 1, 0)).map(|u| u.watched), Some(true));
    }
}
