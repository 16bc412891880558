//! The other end of the table, on the resolver's side. In: names of cgroups and processes in scope, stale handles; out: opened
//! and checked descriptors for the reactor, closed ones when they come back.

use std::collections::HashMap;

use nix::fcntl::OFlag;
use rtrb::{Consumer, Producer};

use super::{Handle, Key, Message};
use crate::heal::cgroup::{Dir, Knob, Target, freezers};
use crate::heal::process::{Identity, ProcessHandle};
use crate::heal::{HandError, Protection};
use crate::kernel::CgroupLayout;
use crate::model::action::Verb;
use crate::model::entity::{Entity, Tree};

/// The reflex verbs of a cgroup.
const CGROUP_VERBS: [Verb; 3] = [Verb::Kill, Verb::FreezeCgroup, Verb::ThawCgroup];
/// Names remembered, to open them again; as many cgroups as a large node has units and containers.
const KNOWN: usize = 4096;

/// What the reactor should be ready for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A cgroup, or the unit whose cgroup it is.
    Cgroup {
        /// As requests will name it: `Cgroup` or `Unit`.
        entity: Entity,
        /// The tree of path and id.
        tree: Tree,
        /// Its id.
        id: u64,
        /// Its path.
        path: String,
    },
    /// A process.
    Process(Identity),
}

impl Wanted {
    fn entity(&self) -> Entity {
        match self {
            Self::Cgroup { entity, .. } => *entity,
            Self::Process(identity) => Entity::Process(identity.pid),
        }
    }
}

/// Opens handles and closes them.
#[derive(Debug)]
pub struct Preparer {
    layout: CgroupLayout,
    protection: Protection,
    put: Producer<Message>,
    returned: Consumer<Handle>,
    asked: Consumer<Key>,
    known: HashMap<Entity, Wanted>,
    /// Handles over there, and the most there may be.
    lent: usize,
    most: usize,
}

impl Preparer {
    pub(super) fn new(
        layout: CgroupLayout,
        protection: Protection,
        put: Producer<Message>,
        returned: Consumer<Handle>,
        asked: Consumer<Key>,
        most: usize,
    ) -> Self {
        Self { layout, protection, put, returned, asked, known: HashMap::new(), lent: 0, most }
    }

    /// Prepares every reflex that this target offers, in place of those it had. What it does not offer is told, and the
    /// executor will do it.
    pub fn want(&mut self, wanted: Wanted) -> Vec<(Verb, HandError)> {
        let entity = wanted.entity();
        let made = match &wanted {
            Wanted::Process(identity) => vec![(Verb::Kill, self.process(identity))],
            Wanted::Cgroup { tree, id, path, .. } => match self.open(*tree, path, *id) {
                Ok(target) => CGROUP_VERBS.map(|verb| (verb, self.cgroup(verb, &target))).into(),
                Err(error) => vec![(Verb::Kill, Err(error))],
            },
        };
        if self.known.len() < KNOWN || self.known.contains_key(&entity) {
            self.known.insert(entity, wanted);
        }
        let mut missing = Vec::new();
        for (verb, handle) in made {
            match handle.and_then(|handle| self.lend((verb, entity), handle)) {
                Ok(()) => {}
                Err(error) => missing.push((verb, error)),
            }
        }
        missing
    }

    /// Takes the handles of a target back: it left the scope, or its cgroup was removed.
    pub fn forget(&mut self, entity: Entity) {
        self.known.remove(&entity);
        for verb in CGROUP_VERBS {
            self.withdraw((verb, entity));
        }
    }

    /// Closes what came back and opens what was found stale. To be called when woken and at least once a second.
    pub fn turn(&mut self) {
        while self.returned.pop().is_ok() {
            self.lent = self.lent.saturating_sub(1);
        }
        while let Ok((verb, entity)) = self.asked.pop() {
            let Some(wanted) = self.known.get(&entity).cloned() else { continue };
            match self.renew(wanted) {
                Some(wanted) => {
                    for (verb, error) in self.want(wanted) {
                        tracing::debug!(verb = verb.name(), "no prepared handle: {error}");
                    }
                }
                None => {
                    tracing::debug!(verb = verb.name(), "a prepared target is gone");
                    self.forget(entity);
                }
            }
        }
    }

    /// Somebody else is protected from now on: the guardian was started again. Follow with [`Self::recheck`].
    pub fn set_protection(&mut self, protection: Protection) {
        self.protection = protection;
    }

    /// How many handles are over there or on the way.
    pub fn lent(&self) -> usize {
        self.lent
    }

    /// Looks again who is in the prepared cgroups, and takes back what must not be touched any more.
    pub fn recheck(&mut self) {
        let protected = |wanted: &Wanted| match wanted {
            Wanted::Process(_) => false,
            Wanted::Cgroup { tree, id, path, .. } => {
                matches!(self.open(*tree, path, *id), Err(HandError::Protected { .. }))
            }
        };
        let gone: Vec<Entity> = self.known.iter().filter(|(_, wanted)| protected(wanted)).map(|(e, _)| *e).collect();
        for entity in gone {
            self.forget(entity);
        }
    }

    /// A unit's next cgroup has the same path and another id. A cgroup that is meant by its id has no next one.
    fn renew(&self, wanted: Wanted) -> Option<Wanted> {
        let Wanted::Cgroup { entity: entity @ Entity::Unit(_), tree, path, .. } = wanted else { return None };
        let purpose =
            if tree == Tree::Memory { crate::kernel::Purpose::Memory } else { crate::kernel::Purpose::Process };
        let root = self.layout.hierarchy_for(purpose)?.root;
        let id = Dir::open(&root.join(path.trim_start_matches('/'))).ok()?.id();
        Some(Wanted::Cgroup { entity, tree, id, path })
    }

    fn open(&self, tree: Tree, path: &str, id: u64) -> Result<Target, HandError> {
        let target = Target::open(&self.layout, tree, path, id)?;
        target.guard(&self.protection)?;
        Ok(target)
    }

    fn process(&self, identity: &Identity) -> Result<Handle, HandError> {
        let handle = ProcessHandle::open(identity.clone(), &self.protection)?;
        Ok(Handle::Process { pidfd: handle.into_pidfd(), start_ticks: identity.start_ticks })
    }

    fn cgroup(&self, verb: Verb, target: &Target) -> Result<Handle, HandError> {
        if verb == Verb::Kill {
            return self.kill(target);
        }
        let Some((freezer, knob)) = freezers(&self.layout, target)?.into_iter().next() else {
            let why = "no hierarchy here can freeze".into();
            return Err(HandError::Unsupported { operation: "freeze", what: target.dir.name(), why });
        };
        freezer.guard(&self.protection)?;
        let file = freezer.dir.file(knob.writes(), OFlag::O_WRONLY)?;
        let flag = freezer.dir.file(knob.reads(), OFlag::O_RDONLY)?;
        Ok(Handle::Freeze { file, flag, knob, cgroup: freezer.dir.id() })
    }

    /// With a v1 freezer mounted, only where the frozen can be thawed as well; else the executor takes its time.
    fn kill(&self, target: &Target) -> Result<Handle, HandError> {
        let file = target.dir.file("cgroup.kill", OFlag::O_WRONLY)?;
        let thaw = match self.layout.hierarchy_of("freezer") {
            Some(freezer) if self.any_outside_root(target, &freezer)? => {
                Some(target.twin(&freezer)?.dir.file(Knob::FreezerState.writes(), OFlag::O_WRONLY)?)
            }
            _ => None,
        };
        Ok(Handle::Kill { file, thaw })
    }

    /// Whether any of its processes is in a cgroup that can be frozen: the root cannot.
    fn any_outside_root(&self, target: &Target, freezer: &crate::kernel::Hierarchy) -> Result<bool, HandError> {
        let outside = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            crate::kernel::path_in(&text, freezer).is_some_and(|path| path != "/")
        };
        Ok(target.dir.processes_below()?.iter().any(outside))
    }

    fn lend(&mut self, key: Key, handle: Handle) -> Result<(), HandError> {
        let full = || HandError::Unsupported {
            operation: "prepare",
            what: key.0.name().to_owned(),
            why: "the table of handles is full".into(),
        };
        if self.lent == self.most {
            return Err(full());
        }
        self.put.push(Message::Put(key, handle)).map_err(|_| full())?;
        self.lent += 1;
        Ok(())
    }

    fn withdraw(&mut self, key: Key) {
        if self.put.push(Message::Withdraw(key)).is_err() {
            tracing::warn!("the reactor is behind; a prepared handle stays until it is used or pushed out");
        }
    }
}
