//! A map of fixed capacity: keys and values in; lookups, and what had to leave, out.
//!
//! The engine keeps one per kind of entity. All memory is reserved by [`BoundedMap::with_capacity`]; afterwards nothing
//! is allocated, grown or re-hashed, so that no event costs a thousand times what its neighbour did. When the map is
//! full, the entry that was touched least recently leaves, and the caller is told.
//!
//! Everything is a function of the calls made: there is no random seed, iteration follows the slots, and
//! serialisation keeps slots, free slots and order of use, so that an engine that was restored from a snapshot
//! goes on exactly like the one that was not.
//!
//! The index is an open-addressing table of twice the capacity or more, probed linearly; removal shifts entries
//! back instead of leaving tombstones, which would need a rebuild one day. Each cell holds 32 bits of the hash, so that a
//! probe rarely touches a wrong key. FxHash does not resist chosen keys: who can choose all of them makes a lookup cost
//! up to one pass over the table (about 10 µs at 4096 entries), which the fixed capacity bounds.
//!
//! Rejected: `HashMap` with a linked list (its growth and its tombstone clean-up come at a moment of its own choosing);
//! a random seed (replay would differ from the live run).

#![forbid(unsafe_code)]

mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash};

use rustc_hash::FxHasher;

/// No slot, no cell: the end of a list or an empty place in the index.
const NONE: u32 = u32::MAX;

/// The largest capacity; the index then still has fewer than 2^32 cells.
const MAX_CAPACITY: usize = 1 << 30;

/// A place in the index.
#[derive(Clone, Copy)]
struct Cell {
    slot: u32,
    /// The low bits of the hash. Those that choose the home cell are among them.
    hash: u32,
}

const EMPTY: Cell = Cell { slot: NONE, hash: 0 };

/// The neighbours of a slot in the order of use. A free slot uses `next` alone, for the list of free slots.
#[derive(Clone, Copy)]
struct Link {
    /// Used more recently.
    prev: u32,
    /// Used less recently.
    next: u32,
}

/// A map of at most [`capacity`](Self::capacity) entries that forgets the least recently used one when it is full.
#[derive(Clone)]
pub struct BoundedMap<K, V> {
    /// `None` is a free slot. It grows, within what was reserved, to the number of slots ever used.
    slots: Vec<Option<(K, V)>>,
    /// As long as `slots`; apart from it, because a touch reads three links and no value.
    links: Vec<Link>,
    cells: Box<[Cell]>,
    capacity: usize,
    len: usize,
    /// The slot used most recently, and the one used least.
    newest: u32,
    oldest: u32,
    /// The slot freed last.
    free: u32,
}

impl<K: Copy + Eq + Hash, V> BoundedMap<K, V> {
    /// An empty map for `capacity` entries (at least one, at most 2^30). The only call that allocates.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, MAX_CAPACITY);
        Self {
            slots: Vec::with_capacity(capacity),
            links: Vec::with_capacity(capacity),
            cells: vec![EMPTY; (2 * capacity).next_power_of_two()].into_boxed_slice(),
            capacity,
            len: 0,
            newest: NONE,
            oldest: NONE,
            free: NONE,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many entries there can be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The value of `key`, which counts as a use of it.
    pub fn get(&mut self, key: &K) -> Option<&V> {
        self.get_mut(key).map(|value| &*value)
    }

    /// The value of `key`, which counts as a use of it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let slot = self.cells[self.find(key)?].slot;
        self.touch(slot);
        self.value_mut(slot)
    }

    /// The value of `key`, without counting as a use.
    pub fn peek(&self, key: &K) -> Option<&V> {
        let slot = self.cells[self.find(key)?].slot;
        self.slots[slot as usize].as_ref().map(|(_, value)| value)
    }

    /// Whether `key` is there, without counting as a use.
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_some()
    }

    /// Sets the value of `key`, which counts as a use. Returns the entry that had to leave for it. A former value of the
    /// same key is dropped: it was replaced, not evicted.
    pub fn insert_or_evict(&mut self, key: K, value: V) -> Option<(K, V)> {
        match self.find(&key) {
            Some(cell) => {
                let slot = self.cells[cell].slot;
                self.touch(slot);
                self.slots[slot as usize] = Some((key, value));
                None
            }
            None => self.insert_new(key, value).1,
        }
    }

    /// The value of `key`, which counts as a use; where there is none, `make`'s, and the entry that had to leave for it.
    pub fn entry_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> (&mut V, Option<(K, V)>) {
        let (slot, evicted) = match self.find(&key) {
            Some(cell) => {
                let slot = self.cells[cell].slot;
                self.touch(slot);
                (slot, None)
            }
            None => self.insert_new(key, make()),
        };
        let Some((_, value)) = &mut self.slots[slot as usize] else {
            unreachable!("the slot was found or filled just now")
        };
        (value, evicted)
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let cell = self.find(key)?;
        let slot = self.cells[cell].slot;
        self.vacate(cell);
        self.release(slot).map(|(_, value)| value)
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.retain(|_, _| false);
    }

    /// Keeps only the entries for which `keep` says so, asked in slot order. Does not count as a use.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        for slot in 0..self.slots.len() {
            let Some((key, value)) = &mut self.slots[slot] else {
                continue;
            };
            let key = *key;
            if !keep(&key, value) {
                self.remove(&key);
            }
        }
    }

    /// All entries in slot order: the same after the same calls. Does not count as a use.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().flatten().map(|(key, value)| (key, value))
    }

    /// As [`Self::iter`], to change the values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.slots.iter_mut().flatten().map(|(key, value)| (&*key, value))
    }

    /// Puts a key that is not there into a slot: a freed one, a fresh one, or that of the entry used least recently.
    fn insert_new(&mut self, key: K, value: V) -> (u32, Option<(K, V)>) {
        let evicted = if self.len == self.capacity { self.evict() } else { None };
        let slot = self.take_slot();
        self.slots[slot as usize] = Some((key, value));
        self.push_newest(slot);
        self.enter(hash_of(&key), slot);
        self.len += 1;
        (slot, evicted)
    }

    fn evict(&mut self) -> Option<(K, V)> {
        let slot = self.oldest;
        let key = self.slots.get(slot as usize)?.as_ref()?.0;
        if let Some(cell) = self.find(&key) {
            self.vacate(cell);
        }
        self.release(slot)
    }

    fn value_mut(&mut self, slot: u32) -> Option<&mut V> {
        self.slots[slot as usize].as_mut().map(|(_, value)| value)
    }

    /// The cell of `key`.
    fn find(&self, key: &K) -> Option<usize> {
        let hash = hash_of(key);
        let mut at = self.home(hash);
        loop {
            let cell = self.cells[at];
            if cell.slot == NONE {
                return None;
            }
            if cell.hash == hash && self.slots[cell.slot as usize].as_ref().is_some_and(|(k, _)| k == key) {
                return Some(at);
            }
            at = self.after(at);
        }
    }
}

impl<K, V> BoundedMap<K, V> {
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.cells.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.cells.len() - 1)
    }

    /// Enters a slot into the index. There is room: the index has at least twice as many cells as the map has slots.
    fn enter(&mut self, hash: u32, slot: u32) {
        let mut at = self.home(hash);
        while self.cells[at].slot != NONE {
            at = self.after(at);
        }
        self.cells[at] = Cell { slot, hash };
    }

    /// Empties a cell and moves back what probing would no longer reach.
    fn vacate(&mut self, cell: usize) {
        let mask = self.cells.len() - 1;
        let (mut hole, mut at) = (cell, cell);
        loop {
            at = self.after(at);
            let moving = self.cells[at];
            if moving.slot == NONE {
                break;
            }
            // `moving` may fill the hole if that lies on its way from home to where it is.
            let from_home = at.wrapping_sub(self.home(moving.hash)) & mask;
            let from_hole = at.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.cells[hole] = moving;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
    }

    /// A slot that holds nothing; there is one, because the caller made room.
    fn take_slot(&mut self) -> u32 {
        let slot = self.free;
        if slot != NONE {
            self.free = self.links[slot as usize].next;
            return slot;
        }
        self.slots.push(None);
        self.links.push(Link { prev: NONE, next: NONE });
        // At most MAX_CAPACITY.
        (self.slots.len() - 1) as u32
    }

    /// Takes the entry out of a slot whose cell was vacated, and frees the slot.
    fn release(&mut self, slot: u32) -> Option<(K, V)> {
        self.unlink(slot);
        self.links[slot as usize].next = self.free;
        self.free = slot;
        self.len -= 1;
        self.slots[slot as usize].take()
    }

    fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.unlink(slot);
            self.push_newest(slot);
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Link { prev, next } = self.links[slot as usize];
        match prev {
            NONE => self.newest = next,
            _ => self.links[prev as usize].next = next,
        }
        match next {
            NONE => self.oldest = prev,
            _ => self.links[next as usize].prev = prev,
        }
    }

    fn push_newest(&mut self, slot: u32) {
        let next = self.newest;
        self.links[slot as usize] = Link { prev: NONE, next };
        match next {
            NONE => self.oldest = slot,
            _ => self.links[next as usize].prev = slot,
        }
        self.newest = slot;
    }

    /// The slots from `first` along `next`.
    fn chain(&self, first: u32) -> impl Iterator<Item = u32> {
        let real = |slot| (slot != NONE).then_some(slot);
        std::iter::successors(real(first), move |&slot| real(self.links[slot as usize].next))
    }
}

/// Entries in slot order.
impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for BoundedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.slots.iter().flatten().map(|(key, value)| (key, value))).finish()
    }
}

fn hash_of<K: Hash>(key: &K) -> u32 {
    // FxHasher has moved its best bits down to where tables look for them.
    BuildHasherDefault::<FxHasher>::default().hash_one(key) as u32
}
