//! [`BoundedMap`] to and from its serialised state, for the engine's snapshot: a map in, the same map out, down to the
//! slots. Were only the entries kept, a restored map would iterate and evict in another order than the live one, and a
//! replay from that snapshot would differ.
//!
//! The state may come from a damaged or forged file: whatever does not describe a map is refused.

use std::hash::Hash;

use serde::de::{Deserializer, Error};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use super::{BoundedMap, MAX_CAPACITY, hash_of};

/// The largest capacity that is believed when read: a forged one must not reserve gigabytes.
const MAX_READ: u64 = 1 << 20;

const _: () = assert!(MAX_READ <= MAX_CAPACITY as u64);

/// As written: borrowed, since the live engine must not allocate.
#[derive(Serialize)]
#[serde(rename = "State", bound = "K: Serialize, V: Serialize")]
struct Borrowed<'a, K, V> {
    capacity: u64,
    slots: &'a [Option<(K, V)>],
    used: Chain<'a, K, V>,
    free: Chain<'a, K, V>,
}

/// The slots of one list, as a sequence.
struct Chain<'a, K, V> {
    map: &'a BoundedMap<K, V>,
    first: u32,
    len: usize,
}

impl<K, V> Serialize for Chain<'_, K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut slots = serializer.serialize_seq(Some(self.len))?;
        self.map.chain(self.first).try_for_each(|slot| slots.serialize_element(&slot))?;
        slots.end()
    }
}

/// As read.
#[derive(Deserialize)]
#[serde(bound = "K: Deserialize<'de>, V: Deserialize<'de>")]
struct State<K, V> {
    capacity: u64,
    slots: Vec<Option<(K, V)>>,
    /// The filled slots, the one used most recently first.
    used: Vec<u32>,
    /// The free slots, the one to be used next first.
    free: Vec<u32>,
}

impl<K: Serialize, V: Serialize> Serialize for BoundedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Borrowed {
            capacity: self.capacity as u64,
            slots: &self.slots,
            used: Chain { map: self, first: self.newest, len: self.len },
            free: Chain { map: self, first: self.free, len: self.slots.len() - self.len },
        }
        .serialize(serializer)
    }
}

impl<'de, K, V> Deserialize<'de> for BoundedMap<K, V>
where
    K: Deserialize<'de> + Copy + Eq + Hash,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        State::deserialize(deserializer)?.restore().map_err(D::Error::custom)
    }
}

impl<K: Copy + Eq + Hash, V> State<K, V> {
    fn restore(self) -> Result<BoundedMap<K, V>, &'static str> {
        if self.capacity == 0 || self.capacity > MAX_READ || self.slots.len() as u64 > self.capacity {
            return Err("a bounded map with an impossible capacity");
        }
        if self.used.len() + self.free.len() != self.slots.len() {
            return Err("a bounded map whose lists do not cover its slots");
        }
        let mut map = BoundedMap::with_capacity(self.capacity as usize);
        let mut slots = self.slots;
        for _ in &slots {
            map.take_slot();
        }
        for slot in self.used.into_iter().rev() {
            let entry = slots.get_mut(slot as usize).and_then(Option::take);
            let (key, value) = entry.ok_or("a bounded map that names a slot twice, or an empty one")?;
            if map.contains_key(&key) {
                return Err("a bounded map with a key twice");
            }
            map.slots[slot as usize] = Some((key, value));
            map.push_newest(slot);
            map.enter(hash_of(&key), slot);
            map.len += 1;
        }
        if slots.iter().any(Option::is_some) {
            return Err("a bounded map with an entry outside the order of use");
        }
        map.restore_free(&self.free)?;
        Ok(map)
    }
}

impl<K, V> BoundedMap<K, V> {
    fn restore_free(&mut self, free: &[u32]) -> Result<(), &'static str> {
        let mut seen = vec![false; self.slots.len()];
        for &slot in free.iter().rev() {
            let at = slot as usize;
            if self.slots.get(at).is_none_or(Option::is_some) || std::mem::replace(&mut seen[at], true) {
                return Err("a bounded map that frees a slot twice, or a filled one");
            }
            self.links[at].next = self.free;
            self.free = slot;
        }
        Ok(())
    }
}
