//! Which faults stand, shared between the reactor, which writes, and the executor, which asks right before it acts. In:
//! fault ids. Out: yes or no; without a lock, an allocation or a system call on either side.
//!
//! A fixed array of ids. An id lives within [`REACH`] places after its own (`id % PLACES`), which a look-up walks through in
//! full, so that taking one out leaves no hole that hides another. An id that finds no place does not stand: then the
//! executor refuses, which is the safe side. Rejected: a bit per id (ids grow for ever), a mutex (the reactor never waits).

use std::sync::atomic::{AtomicU64, Ordering};

/// Faults that may stand at the same time.
const PLACES: usize = 4096;
/// Places looked through for one id: half a page, read in under 100 ns.
const REACH: usize = 64;

/// The faults that stand.
#[derive(Debug)]
pub struct Standing {
    /// 0: free.
    places: Box<[AtomicU64]>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Standing {
    /// The fault opened or came back. For one writer: the reactor. `false`: no place is left, and it will count as cleared.
    pub fn opened(&self, fault: u64) -> bool {
        if self.stands(fault) {
            return true;
        }
        let free = self.reach(fault).find(|place| place.load(Ordering::Relaxed) == 0);
        free.inspect(|place| place.store(fault, Ordering::Release)).is_some()
    }

    /// The fault is clearing or closed. For the same writer.
    pub fn cleared(&self, fault: u64) {
        if let Some(place) = self.reach(fault).find(|place| place.load(Ordering::Relaxed) == fault) {
            place.store(0, Ordering::Release);
        }
    }

    /// Whether it stands now. For anyone.
    pub fn stands(&self, fault: u64) -> bool {
        fault != 0 && self.reach(fault).any(|place| place.load(Ordering::Acquire) == fault)
    }

    fn reach(&self, fault: u64) -> impl Iterator<Item = &AtomicU64> {
        let home = (fault % PLACES as u64) as usize;
        (0..REACH).map(move |step| &self.places[(home + step) % PLACES])
    }
}
