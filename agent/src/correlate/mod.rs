//! Correlate: facts of one cause are joined. In: OOM kills and exits. Out: "this exit belongs to that kill".
//!
//! The exit of an OOM victim is evidence of its `oom_kill`, not a second fault. Both records travel in the
//! critical ring, the kill first, so a victim is always known before it dies.
#![forbid(unsafe_code)]

use crate::model::{bounded::BoundedMap, entity::Entity};

/// Victims remembered at the same time.
const VICTIMS: usize = 256;
/// How long a victim may take to die, ns. A victim stuck in the kernel can take long; pids recycle slowly.
const REMEMBER_NS: u64 = 60_000_000_000;

/// The processes that the OOM killer chose and that have not exited yet.
#[derive(Debug)]
pub struct OomVictims {
    victims: BoundedMap<u32, Victim>,
}

#[derive(Clone, Copy, Debug)]
struct Victim {
    entity: Entity,
    killed_ns: u64,
}

impl Default for OomVictims {
    fn default() -> Self {
        Self { victims: BoundedMap::with_capacity(VICTIMS) }
    }
}

impl OomVictims {
    /// Remembers a victim and the entity of its fault.
    pub fn mark(&mut self, pid: u32, entity: Entity, killed_ns: u64) {
        let _ = self.victims.insert_or_evict(pid, Victim { entity, killed_ns });
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
}
