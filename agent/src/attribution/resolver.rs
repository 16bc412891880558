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
        Arc, Mutex, PoisonError,
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

/// Names in one fact at most ...
const BATCH: usize = 1000;
/// ... and bytes of their paths: a recorded fact must fit into the recorder's scratch space.
const BATCH_BYTES: usize = 64 << 10;
/// Ids that may wait for a walk; any more are asked for again with their next event.
const WANTED: usize = 1024;
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

/// The hierarchies of this machine. Process ids are those of the default (v2) hierarchy; where nobody mounted
/// it, no tree has names for them, least of all the v1 tree that systemd uses then.
pub fn trees(layout: &CgroupLayout) -> Vec<Tree> {
    let process = layout.v2.clone();
    let memory = layout.hierarchy_for(Purpose::Memory).map(|h| h.root);
    match (process, memory) {
        (Some(p), Some(m)) if p == m => vec![Tree { root: p, trees: TREE_PROCESS | TREE_MEMORY }],
        (p, m) => {
            let process = p.map(|root| Tree { root, trees: TREE_PROCESS });
            process.into_iter().chain(m.map(|root| Tree { root, trees: TREE_MEMORY })).collect()
        }
    }
}

/// Small enough for the recorder, each.
fn batches(names: Vec<CgroupName>) -> impl Iterator<Item = Arc<[CgroupName]>> {
    let mut batches: Vec<Vec<CgroupName>> = Vec::new();
    let mut bytes = 0;
    for name in names {
        bytes += name.path.len();
        match batches.last_mut().filter(|batch| batch.len() < BATCH && bytes <= BATCH_BYTES) {
            Some(batch) => batch.push(name),
            None => {
                bytes = name.path.len();
                batches.push(vec![name]);
            }
        }
    }
    batches.into_iter().map(Arc::from)
}

/// What others may ask of the running resolver.
#[derive(Debug)]
pub struct Control {
    stop: AtomicBool,
    wanted: Mutex<Vec<u64>>,
    bell: Arc<Doorbell>,
}

impl Control {
    /// Nothing wanted yet.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> nix::Result<Self> {
        Ok(Self { stop: AtomicBool::new(false), wanted: Mutex::default(), bell: Doorbell::new()? })
    }

    /// Ends the resolver.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring_always();
    }

    /// Asks for the name of an id that was met without one.
    pub fn want(&self, id: u64) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.len() < WANTED {
            wanted.push(id);
        }
        self.bell.ring_always();
    }

    fn is_wanted(&self) -> bool {
        !self.wanted.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn take_wanted(&self) -> Vec<u64> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The resolver.
pub struct Resolver {
    trees: Vec<Tree>,
    inotify: Option<Inotify>,
    watches: HashMap<WatchDescriptor, (usize, PathBuf)>,
    known: HashSet<(u8, u64)>,
    fresh: Vec<CgroupName>,
    gone: Vec<CgroupName>,
}

impl Resolver {
    /// Walks all trees; [`Self::take`] then has their names. Without inotify it still walks when asked.
    pub fn new(trees: Vec<Tree>) -> Self {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        if let Err(error) = &inotify {
            tracing::warn!(%error, "cgroups are not followed by inotify; new ones get their names a second late");
        }
        let mut resolver = Self {
            trees,
            inotify: inotify.ok(),
            watches: HashMap::new(),
            known: HashSet::new(),
            fresh: Vec::new(),
            gone: Vec::new(),
        };
        resolver.walk_all();
        resolver
    }

    /// What was found and what vanished since the last call, in batches.
    pub fn take(&mut self) -> Vec<Fact> {
        let fresh = batches(std::mem::take(&mut self.fresh)).map(Fact::Cgroups);
        fresh.chain(batches(std::mem::take(&mut self.gone)).map(Fact::Gone)).collect()
    }

    /// Follows the trees until stopped. `tap` hears every fact before the reactor does. Blocking.
    pub fn run(mut self, control: &Control, facts: &FactSender, tap: &mut impl FnMut(&Fact)) {
        let mut next_walk_ns = 0;
        while !control.stop.load(Ordering::Acquire) {
            self.wait(control);
            self.follow();
            let now = clock::monotonic_ns();
            if now >= next_walk_ns && control.is_wanted() {
                next_walk_ns = now + WALK_EVERY_NS;
                self.look_for(&control.take_wanted());
            }
            for fact in self.take() {
                tap(&fact);
                if !facts.send(fact.clone()) {
                    tracing::warn!("the reactor is behind; cgroup names will be looked up again when needed");
                    self.known.clear();
                    if let Fact::Gone(names) = fact {
                        // Nobody would ever ask for these: they are told with the next ones.
                        self.gone.extend(names.iter().cloned());
                    }
                }
            }
        }
    }

    /// Walks for ids whose names were asked for: whoever asks has forgotten them, or never heard them.
    fn look_for(&mut self, ids: &[u64]) {
        for tree in &self.trees {
            ids.iter().for_each(|id| _ = self.known.remove(&(tree.trees, *id)));
        }
        self.walk_all();
    }

    fn wait(&self, control: &Control) {
        let mut fds = vec![PollFd::new(control.bell.as_fd(), PollFlags::POLLIN)];
        if let Some(inotify) = &self.inotify {
            fds.push(PollFd::new(inotify.as_fd(), PollFlags::POLLIN));
        }
        let timeout = if control.is_wanted() { PollTimeout::from(1000u16) } else { PollTimeout::NONE };
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
                self.sweep();
                return;
            }
            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                if let Some((tree, dir)) = self.watches.remove(&event.wd) {
                    self.removed(tree, &dir);
                }
                continue;
            }
            let Some((tree, parent)) = self.watches.get(&event.wd).cloned() else { continue };
            if let Some(name) = event.name {
                self.walk(tree, &parent.join(name));
            }
        }
    }

    /// Notes that a directory is gone, unless there is one of its name again.
    fn removed(&mut self, tree: usize, dir: &Path) {
        if fs::symlink_metadata(dir).is_err() {
            let trees = self.trees[tree].trees;
            self.gone.push(CgroupName { trees, id: 0, path: self.path_of(tree, dir) });
        }
    }

    /// Looks for every directory that was followed: what happened in between was not told.
    fn sweep(&mut self) {
        let missing = |(_, (_, dir)): &(&WatchDescriptor, &(usize, PathBuf))| fs::symlink_metadata(dir).is_err();
        let all: Vec<_> =
            self.watches.iter().filter(missing).map(|(wd, (tree, dir))| (*wd, *tree, dir.clone())).collect();
        for (wd, tree, dir) in all {
            self.watches.remove(&wd);
            self.removed(tree, &dir);
        }
    }

    fn path_of(&self, tree: usize, dir: &Path) -> String {
        format!("/{}", dir.strip_prefix(&self.trees[tree].root).unwrap_or(dir).display())
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
        let trees = self.trees[tree].trees;
        if self.known.len() >= KNOWN {
            // Most of them are long dead; the living are told again when they are next walked.
            self.known.clear();
        }
        if self.known.insert((trees, id)) {
            let path = self.path_of(tree, dir);
            // Made again before anybody was told.
            self.gone.retain(|gone| gone.trees != trees || gone.path != path);
            self.fresh.push(CgroupName { trees, id, path });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::CgroupLayout;

    #[test]
    fn without_a_v2_mount_no_tree_names_processes() {
        let mut layout = CgroupLayout { systemd_v1: Some("/sys/fs/cgroup/systemd".into()), ..CgroupLayout::default() };
        layout.v1.insert("memory".into(), "/sys/fs/cgroup/memory".into());
        assert!(trees(&layout).iter().all(|tree| tree.trees & TREE_PROCESS == 0));
        layout.v2 = Some("/sys/fs/cgroup/unified".into());
        assert!(trees(&layout).iter().any(|tree| tree.trees & TREE_PROCESS != 0));
    }

    #[test]
    fn batches_stay_small_in_bytes_too() {
        let mut resolver = Resolver::new(Vec::new());
        let long = |id| CgroupName { trees: TREE_PROCESS, id, path: "x".repeat(4000) };
        resolver.fresh = (0..100).map(long).collect();
        let facts = resolver.take();
        assert!(facts.len() > 100 * 4000 / BATCH_BYTES);
        for fact in &facts {
            let Fact::Cgroups(names) = fact else { panic!("{fact:?}") };
            assert!(names.iter().map(|name| name.path.len()).sum::<usize>() <= BATCH_BYTES);
        }
    }

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
        let id = fs::metadata(root.join("a.slice")).expect("a directory").ino();
        resolver.look_for(&[id, 1]);
        assert_eq!(names(resolver.take()), ["/a.slice"], "told again when asked for again");
        fs::remove_dir(root.join("a.slice/c.service")).expect("clean up");
        fs::remove_dir(root.join("a.slice/b.service")).expect("clean up");
        fs::create_dir(root.join("a.slice/b.service")).expect("a temporary directory");
        resolver.follow();
        let facts = resolver.take();
        let gone = facts.iter().find_map(|f| if let Fact::Gone(n) = f { Some(n.to_vec()) } else { None });
        let gone: Vec<_> = gone.expect("a directory is gone").into_iter().map(|n| n.path).collect();
        assert_eq!(gone, ["/a.slice/c.service"], "the other one is there again");
        fs::remove_dir_all(&root).expect("clean up");
    }
}
