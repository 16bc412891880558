//! The resolver: cgroup directories in, names as facts out. Runs as a blocking task, outside the reactor.
//!
//! It walks the trees once at start, then follows them by inotify, so that a cgroup usually has its name
//! before anything happens in it. An id that was met without a name makes it walk again, at most once a
//! second. A directory's inode number is the cgroup's id (kernfs node id, fs/kernfs/dir.c, v5.5 on).

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};

use crate::{
    clock,
    kernel::{CgroupLayout, Purpose},
    model::input::{CgroupName, Fact, TREE_MEMORY, TREE_PROCESS},
    source::queue::{Doorbell, FactSender},
};

/// Names in one fact at most; keeps a recorded fact small.
const BATCH: usize = 1000;
/// Ids remembered as told.
const KNOWN: usize = 100_000;
/// Least time between two walks for ids without a name, ns.
const WALK_EVERY_NS: u64 = 1_000_000_000;

/// A hierarchy to follow and the trees its ids belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: PathBuf,
    trees: u8,
}

/// The hierarchies of this machine.
pub fn trees(layout: &CgroupLayout) -> Vec<Tree> {
    let process = layout.hierarchy_for(Purpose::Process).map(|h| h.root);
    let memory = layout.hierarchy_for(Purpose::Memory).map(|h| h.root);
    match (process, memory) {
        (Some(p), Some(m)) if p == m => vec![Tree { root: p, trees: TREE_PROCESS | TREE_MEMORY }],
        (p, m) => {
            let process = p.map(|root| Tree { root, trees: TREE_PROCESS });
            process.into_iter().chain(m.map(|root| Tree { root, trees: TREE_MEMORY })).collect()
        }
    }
}

/// What others may ask of the running resolver.
#[derive(Debug)]
pub struct Control {
    /// Ends it.
    pub stop: AtomicBool,
    /// An id without a name was met.
    pub wanted: AtomicBool,
    /// Rung with either.
    pub bell: Arc<Doorbell>,
}

/// The resolver.
pub struct Resolver {
    trees: Vec<Tree>,
    inotify: Option<Inotify>,
    watches: HashMap<WatchDescriptor, (usize, PathBuf)>,
    known: HashSet<(u8, u64)>,
    fresh: Vec<CgroupName>,
}

impl Resolver {
    /// Walks all trees; [`Self::take`] then has their names. Without inotify it still walks when asked.
    pub fn new(trees: Vec<Tree>) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "cgroups are not followed by inotify; new ones get their names a second late");
        }
        let mut resolver =
            Self { trees, inotify: inotify.ok(), watches: HashMap::new(), known: HashSet::new(), fresh: Vec::new() };
        resolver.walk_all();
        resolver
    }

    /// The names found since the last call, in batches.
    pub fn take(&mut self) -> Vec<Fact> {
        let fresh = std::mem::take(&mut self.fresh);
        fresh.chunks(BATCH).map(|batch| Fact::Cgroups(Arc::from(batch))).collect()
    }

    /// Follows the trees until stopped. Blocking.
    pub fn run(mut self, control: &Control, facts: &FactSender) {
        let mut next_walk_ns = 0;
        while !control.stop.load(Ordering::Acquire) {
            self.wait(control);
            self.follow();
            let now = clock::monotonic_ns();
            if control.wanted.load(Ordering::Acquire) && now >= next_walk_ns {
                control.wanted.store(false, Ordering::Release);
                next_walk_ns = now + WALK_EVERY_NS;
                self.walk_all();
            }
            for fact in self.take() {
                if !facts.send(fact) {
                    tracing::warn!("the reactor is behind; cgroup names will be looked up again");
                    self.known.clear();
                    control.wanted.store(true, Ordering::Release);
                }
            }
        }
    }

    fn wait(&self, control: &Control) {
        let mut fds = vec![PollFd::new(control.bell.as_fd(), PollFlags::POLLIN)];
        if let Some(inotify) = &self.inotify {
            fds.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
        }
        let pending = control.wanted.load(Ordering::Acquire);
        let timeout = if pending { PollTimeout::from(1000u16) } else { PollTimeout::NONE };
        let _ = poll(&mut fds, timeout);
        control.bell.clear();
    }

    /// Takes in what inotify saw.
    fn follow(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let Ok(events) = inotify.read_events() else { return };
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.walk_all();
                return;
            }
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                self.watches.remove(&event.wd);
                continue;
            }
            let Some((tree, parent)) = self.watches.get(&event.wd).cloned() else { continue };
            if let Some(name) = event.name {
                self.walk(tree, &parent.join(name));
            }
        }
    }

    fn walk_all(&mut self) {
        for tree in 0..self.trees.len() {
            let root = self.trees[tree].root.clone();
            self.walk(tree, &root);
        }
    }

    /// Notes a directory and everything below it. A directory that vanishes meanwhile is simply gone.
    fn walk(&mut self, tree: usize, dir: &Path) {
        let mut todo = vec![dir.to_path_buf()];
        while let Some(dir) = todo.pop() {
            let Ok(metadata) = fs::symlink_metadata(&dir) else { continue };
            if !metadata.is_dir() {
                continue;
            }
            // The watch first: what is made after it is seen by it, what was made before is in the listing.
            self.watch(tree, &dir);
            self.note(tree, &dir, metadata.ino());
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            let is_dir = |e: &fs::DirEntry| e.file_type().is_ok_and(|t| t.is_dir());
            todo.extend(entries.flatten().filter(is_dir).map(|e| e.path()));
        }
    }

    fn watch(&mut self, tree: usize, dir: &Path) {
        let Some(inotify) = &self.inotify else { return };
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR;
        if let Ok(wd) = inotify.add_watch(dir, flags) {
            self.watches.insert(wd, (tree, dir.to_path_buf()));
        }
    }

    fn note(&mut self, tree: usize, dir: &Path, id: u64) {
        let Tree { root, trees } = &self.trees[tree];
        if self.known.len() >= KNOWN {
            // Most of them are long dead; the living are told again when they are next walked.
            self.known.clear();
        }
        if self.known.insert((*trees, id)) {
            let below = dir.strip_prefix(root).unwrap_or(dir);
            let path = format!("/{}", below.display());
            self.fresh.push(CgroupName { trees: *trees, id, path });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_directory_once() {
        let root = std::env::temp_dir().join(format!("faultline-resolver-{}", std::process::id()));
        fs::create_dir_all(root.join("a.slice/b.service")).expect("temporary directories");
        let mut resolver = Resolver::new(vec![Tree { root: root.clone(), trees: TREE_PROCESS }]);
        let names = |facts: Vec<Fact>| -> Vec<String> {
            let of = |f: Fact| if let Fact::Cgroups(n) = f { n.to_vec() } else { vec![] };
            let mut names: Vec<_> = facts.into_iter().flat_map(of).map(|n| n.path).collect();
            names.sort();
            names
        };
        assert_eq!(names(resolver.take()), ["/", "/a.slice", "/a.slice/b.service"]);
        fs::create_dir(root.join("a.slice/c.service")).expect("a temporary directory");
        resolver.follow();
        assert_eq!(names(resolver.take()), ["/a.slice/c.service"]);
        fs::remove_dir_all(&root).expect("clean up");
    }
}
