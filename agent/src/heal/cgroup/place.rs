//! Which directory is meant. In: a tree, a path and an id as attribution named them; out: the opened directory there, and
//! the one in another hierarchy that holds the very same processes.
//!
//! On v1 each controller has a tree of its own and nothing but custom makes the paths agree. So the other directory is taken
//! only if the two hold exactly the same processes; anything else is "not supported", never a guess: freezing or limiting
//! a neighbour would be harm.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dir::Dir;
use crate::heal::{HandError, Protection};
use crate::kernel::{CgroupLayout, CgroupVersion, Hierarchy, Purpose, path_in};
use crate::model::entity::Tree;

/// How often a comparison is repeated when processes come and go meanwhile.
const TRIES: usize = 3;

/// Name of a cgroup directory that outlives its descriptor; what a journal keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Directory of the hierarchy's root.
    pub root: PathBuf,
    /// Path below it, starting with `/`; for a reader, and tried first.
    pub path: String,
    /// The cgroup's id, by which it is recognised.
    pub id: u64,
}

impl Place {
    /// Opens it, if it is still the same.
    ///
    /// # Errors
    /// [`HandError::Gone`], [`HandError::Recreated`]; [`HandError::Unsupported`] for a path that leads out of the tree.
    pub fn open(&self) -> Result<Dir, HandError> {
        let below = below(&self.path)?;
        let dir = Dir::open(&self.root.join(below))?;
        match dir.id() {
            id if id == self.id => Ok(dir),
            found => Err(HandError::Recreated { what: dir.name(), wanted: self.id, found }),
        }
    }
}

/// The path without its leading `/`.
fn below(path: &str) -> Result<&Path, HandError> {
    let relative = Path::new(path.strip_prefix('/').unwrap_or(path));
    if relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(relative);
    }
    let why = "its path leads out of this process's part of the hierarchy".into();
    Err(HandError::Unsupported { operation: "open", what: path.to_owned(), why })
}

/// A cgroup ready for the hands.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub place: Place,
    /// Its hierarchy.
    pub hierarchy: Hierarchy,
    /// Its directory.
    pub dir: Dir,
}

impl Target {
    /// Opens the cgroup that attribution calls `path` with this id in `tree`.
    ///
    /// # Errors
    /// As [`Place::open`]; [`HandError::Unsupported`] without such a tree.
    pub fn open(layout: &CgroupLayout, tree: Tree, path: &str, id: u64) -> Result<Self, HandError> {
        let purpose = match tree {
            Tree::Process => Purpose::Process,
            Tree::Memory => Purpose::Memory,
        };
        let Some(hierarchy) = layout.hierarchy_for(purpose) else {
            let why = "no cgroup hierarchy is mounted for it".into();
            return Err(HandError::Unsupported { operation: "open", what: path.to_owned(), why });
        };
        let place = Place { root: hierarchy.root.clone(), path: path.to_owned(), id };
        Ok(Self { dir: place.open()?, place, hierarchy })
    }

    /// Opens whatever cgroup has this path now.
    fn at(hierarchy: &Hierarchy, path: &str) -> Result<Self, HandError> {
        let dir = Dir::open(&hierarchy.root.join(below(path)?))?;
        let place = Place { root: hierarchy.root.clone(), path: path.to_owned(), id: dir.id() };
        Ok(Self { place, hierarchy: hierarchy.clone(), dir })
    }

    /// The same, through another descriptor of it.
    pub(super) fn with(&self, dir: Dir) -> Self {
        Self { place: self.place.clone(), hierarchy: self.hierarchy.clone(), dir }
    }

    /// Whether it is in the unified tree.
    pub fn is_v2(&self) -> bool {
        self.hierarchy.version == CgroupVersion::V2
    }

    /// Refuses the root and whatever holds a protected process.
    ///
    /// # Errors
    /// [`HandError::Protected`].
    pub fn guard(&self, protection: &Protection) -> Result<(), HandError> {
        let root = Dir::open(&self.hierarchy.root)?;
        protection.judge_cgroup(&self.dir, root.id())
    }

    /// The cgroup of another hierarchy that holds exactly the processes of this one: the one with the same path, else the
    /// deepest one that all of them share there.
    ///
    /// # Errors
    /// [`HandError::Unsupported`] when there is none.
    pub fn twin(&self, to: &Hierarchy) -> Result<Self, HandError> {
        for _ in 0..TRIES {
            let members = self.dir.processes_below()?;
            let shared = shared_path(&members, to);
            for path in [Some(self.place.path.as_str()), shared.as_deref()].into_iter().flatten() {
                let Ok(twin) = Self::at(to, path) else { continue };
                if twin.place.path != "/" && twin.dir.processes_below().is_ok_and(|others| others == members) {
                    return Ok(twin);
                }
            }
        }
        let controller = to.controller.unwrap_or("unified");
        let why = format!("no cgroup of the {controller} hierarchy holds exactly the same processes");
        Err(HandError::Unsupported { operation: "act on", what: self.dir.name(), why })
    }
}

/// The deepest path that all of these processes share in a hierarchy.
fn shared_path(members: &BTreeSet<u32>, hierarchy: &Hierarchy) -> Option<String> {
    let path_of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        path_in(&text, hierarchy).map(PathBuf::from)
    };
    let paths = members.iter().filter_map(path_of);
    let shared =
        paths.reduce(|a, b| a.components().zip(b.components()).take_while(|(x, y)| x == y).map(|p| p.0).collect());
    shared?.into_os_string().into_string().ok()
}

/// Looks through a hierarchy for the cgroup with this id: a reflex slot has no room for a path.
///
/// # Errors
/// [`HandError::Gone`] when there is none.
pub fn find(root: &Path, id: u64) -> Result<Place, HandError> {
    let mut found = None;
    let top = Dir::open(root)?;
    top.visit(&mut |dir| {
        if dir.id() == id {
            found = Some(dir.name());
        }
        Ok(())
    })?;
    let name = found.ok_or_else(|| HandError::Gone { what: format!("cgroup {id} under {}", root.display()) })?;
    let below = Path::new(&name).strip_prefix(root).map(|p| p.display().to_string()).unwrap_or_default();
    Ok(Place { root: root.to_owned(), path: format!("/{below}"), id })
}
