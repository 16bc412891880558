//! Correlate: facts of one cause are joined. In: OOM kills and exits. Out: "this exit belongs to that kill".
//!
//! The exit of an OOM victim is evidence of its `oom_kill`, not a second fault. Both records travel in the
//! critical ring, and the kill comes first, except where the victim dies on another CPU before the kernel has
//! marked it (from 6.16 its exit is told early): so the last deaths by SIGKILL are remembered for a moment.
#![forbid(unsafe_code)]

use crate::model::{
    bounded::BoundedMap,
    entity::Entity,
    snapshot::{Loader, Saver, SnapshotError},
};

/// Victims remembered at the same time.
const VICTIMS: usize = 256;
/// How long a victim may take to die, ns. A victim stuck in the kernel can take long; pids recycle slowly.
const REMEMBER_NS: u64 = 60_000_000_000;
/// How much earlier than its kill a victim's exit may be told, ns.
const EARLY_NS: u64 = 1_000_000_000;

/// The processes that the OOM killer chose and that have not exited yet.
#[derive(Debug)]
pub struct OomVictims {
    victims: BoundedMap<u32, Victim>,
    killed: BoundedMap<u32, (Entity, u64)>,
}

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Victim {
    entity: Entity,
    killed_ns: u64,
}

impl Default for OomVictims {
    fn default() -> Self {
        Self { victims: BoundedMap::with_capacity(VICTIMS), killed: BoundedMap::with_capacity(VICTIMS) }
    }
}

impl OomVictims {
    /// Appends who is remembered.
    pub fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.victims);
        to.put(&self.killed);
    }

    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        (self.victims, self.killed) = (from.take()?, from.take()?);
        Ok(())
    }

    /// Remembers a victim and the entity of its fault.
    pub fn mark(&mut self, pid: u32, entity: Entity, killed_ns: u64) {
        let _ = self.victims.insert_or_evict(pid, Victim { entity, killed_ns });
    }

    /// Remembers a death by SIGKILL and the entity it was counted for: it may turn out to be a victim's.
    pub fn killed(&mut self, pid: u32, entity: Entity, died_ns: u64) {
        let _ = self.killed.insert_or_evict(pid, (entity, died_ns));
    }

    /// If the victim of this kill is dead already: for which entity its death was counted, and when. Forgets both.
    pub fn died_before(&mut self, pid: u32, killed_ns: u64) -> Option<(Entity, u64)> {
        let (entity, died_ns) = self.killed.remove(&pid)?;
        if killed_ns.saturating_sub(died_ns) > EARLY_NS {
            return None;
        }
        self.victims.remove(&pid);
        Some((entity, died_ns))
    }

    /// If this exit is a victim's: the entity of the `oom_kill` fault. Forgets the victim.
    pub fn take(&mut self, pid: u32, exited_ns: u64) -> Option<Entity> {
        let victim = self.victims.remove(&pid)?;
        (exited_ns.saturating_sub(victim.killed_ns) <= REMEMBER_NS).then_some(victim.entity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_victim_is_taken_once_and_not_for_ever() {
        let entity = Entity::Device(1);
        let mut v = OomVictims::default();
        v.mark(7, entity, 0);
        assert_eq!(v.take(7, 5), Some(entity));
        assert_eq!(v.take(7, 6), None);
        v.mark(8, entity, 0);
        assert_eq!(v.take(8, REMEMBER_NS + 1), None, "a recycled pid is not the victim");
    }

    #[test]
    fn a_victim_may_be_dead_before_it_is_marked() {
        let entity = Entity::Device(1);
        let mut v = OomVictims::default();
        v.killed(7, entity, 100);
        v.mark(7, entity, 150);
        assert_eq!(v.died_before(7, 150), Some((entity, 100)));
        assert_eq!(v.take(7, 200), None, "the pid's next owner is no victim");
        v.killed(8, entity, 100);
        assert_eq!(v.died_before(8, 101 + EARLY_NS), None, "an older death of the same pid");
    }
}
