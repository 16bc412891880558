//! Throw-away cgroups with throw-away processes in them, for the tests of the hands. In: names of hierarchies; out: one fresh
//! cgroup in each, and `sleep` processes in all of them. Dropping it thaws, kills, waits and removes, also after a panic.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::poll::{PollTimeout, poll};

use super::cgroup::Target;
use super::{HandError, Protection};
use crate::clock;
use crate::kernel::{CgroupLayout, Hierarchy, Root};
use crate::model::action::{Limit, Request, Verb};
use crate::model::entity::{Entity, Tree};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One cgroup per hierarchy, all of one name.
pub(super) struct Sandbox {
    pub layout: CgroupLayout,
    /// `/name`, in every hierarchy.
    pub path: String,
    dirs: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Sandbox {
    /// `None`, with the reason printed, where this machine or user cannot.
    pub fn new(trees: &[&'static str]) -> Option<Self> {
        let layout = CgroupLayout::gather(&Root::live()).ok()?;
        let name = format!("faultline-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut sandbox = Self { layout, path: format!("/{name}"), dirs: Vec::new(), children: Vec::new() };
        for tree in trees {
            let Some(hierarchy) = sandbox.tree(tree) else {
                eprintln!("skipped: no {tree} cgroup hierarchy is mounted here");
                return None;
            };
            let dir = hierarchy.root.join(&name);
            if let Err(error) = fs::create_dir(&dir) {
                eprintln!("skipped: cannot make {}: {error}", dir.display());
                return None;
            }
            sandbox.dirs.push(dir);
        }
        Some(sandbox)
    }

    /// `unified` or a v1 controller.
    pub fn tree(&self, tree: &'static str) -> Option<Hierarchy> {
        if tree == "unified" { self.layout.v2_tree() } else { self.layout.hierarchy_of(tree) }
    }

    pub fn dir(&self, tree: &'static str) -> PathBuf {
        self.tree(tree).expect("made at the start").root.join(&self.path[1..])
    }

    pub fn read(&self, tree: &'static str, file: &str) -> String {
        fs::read_to_string(self.dir(tree).join(file)).expect("a cgroup file").trim().to_owned()
    }

    pub fn write(&self, tree: &'static str, file: &str, text: &str) {
        fs::write(self.dir(tree).join(file), text).expect("a cgroup file");
    }

    pub fn id(&self, tree: &'static str) -> u64 {
        fs::metadata(self.dir(tree)).expect("its directory").ino()
    }

    pub fn target(&self, tree: Tree) -> Result<Target, HandError> {
        Target::open(&self.layout, tree, &self.path, self.id(self.name_of(tree)))
    }

    /// The hierarchy in which this machine has the tree.
    pub fn name_of(&self, tree: Tree) -> &'static str {
        if tree == Tree::Memory && self.layout.v1.contains_key("memory") { "memory" } else { "unified" }
    }

    /// A process in all the cgroups.
    pub fn process(&mut self) -> u32 {
        let dirs = self.dirs.clone();
        self.process_in(&dirs)
    }

    pub fn process_in(&mut self, dirs: &[PathBuf]) -> u32 {
        let child = Command::new("sleep").arg("300").spawn().expect("sleep");
        let pid = child.id();
        self.children.push(child);
        for dir in dirs {
            fs::write(dir.join("cgroup.procs"), pid.to_string()).expect("move the process");
        }
        pid
    }

    /// Another cgroup below.
    pub fn make(&mut self, dir: PathBuf) -> PathBuf {
        fs::create_dir(&dir).expect("a cgroup");
        self.dirs.push(dir.clone());
        dir
    }

    /// Whether the process has ended; reaps it.
    pub fn is_dead(&mut self, pid: u32) -> bool {
        let child = self.children.iter_mut().find(|child| child.id() == pid).expect("ours");
        child.try_wait().expect("wait").is_some()
    }

    pub fn dies_within_ms(&mut self, pid: u32, ms: u64) -> bool {
        within_ms(ms, || self.is_dead(pid))
    }

    pub fn nobody() -> Protection {
        Protection::of([])
    }
}

/// Asks every few milliseconds until it is so.
pub(super) fn within_ms(ms: u64, mut so: impl FnMut() -> bool) -> bool {
    let end = clock::monotonic_ns() + ms * 1_000_000;
    while !so() {
        if clock::monotonic_ns() > end {
            return false;
        }
        poll(&mut [], PollTimeout::from(2_u8)).expect("poll");
    }
    true
}

/// A request that is fresh for an hour.
pub(super) fn request(id: u64, verb: Verb, target: Entity) -> Request {
    Request {
        id,
        fault: 7,
        verb,
        target,
        limit: Limit::default(),
        evidence_ns: clock::monotonic_ns(),
        evidence_max_age_ns: 3_600_000_000_000,
        timeout_ns: 2_000_000_000,
        verify_ns: 1_000_000_000,
    }
}

pub(super) fn deadline() -> u64 {
    clock::monotonic_ns() + 2_000_000_000
}

/// A directory that goes away.
pub(super) struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let name = format!("faultline-hands-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).expect("a temporary directory");
        Self(dir)
    }

    pub fn paths(&self) -> super::journal::Paths {
        super::journal::Paths {
            reflex: self.0.join("run/reflex.journal"),
            recovery: self.0.join("lib/recovery.journal"),
            lock: self.0.join("lock"),
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for dir in &self.dirs {
            thaw(dir);
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for dir in self.dirs.iter().rev() {
            within_ms(1000, || fs::remove_dir(dir).is_ok() || !dir.exists());
        }
    }
}

fn thaw(dir: &Path) {
    for (file, text) in [("cgroup.freeze", "0"), ("freezer.state", "THAWED")] {
        if dir.join(file).exists() {
            let _ = fs::write(dir.join(file), text);
        }
    }
}
