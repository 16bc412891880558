//! The map against a list that does the same slowly, and its state against forgeries.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// The oldest entry first.
#[derive(Default)]
struct Model {
    entries: Vec<(u16, u32)>,
    capacity: usize,
}

impl Model {
    fn touch(&mut self, key: u16) -> Option<&mut u32> {
        let at = self.entries.iter().position(|entry| entry.0 == key)?;
        let entry = self.entries.remove(at);
        self.entries.push(entry);
        self.entries.last_mut().map(|entry| &mut entry.1)
    }

    fn insert(&mut self, key: u16, value: u32) -> Option<(u16, u32)> {
        if let Some(old) = self.touch(key) {
            *old = value;
            return None;
        }
        let evicted = (self.entries.len() == self.capacity).then(|| self.entries.remove(0));
        self.entries.push((key, value));
        evicted
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u16, u32),
    Entry(u16, u32),
    Get(u16),
    Change(u16, u32),
    Peek(u16),
    Remove(u16),
    Retain(u16),
    Clear,
    Restore,
}

fn any_op(keys: u16) -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..keys, any::<u32>()).prop_map(|(key, value)| Op::Insert(key, value)),
        8 => (0..keys, any::<u32>()).prop_map(|(key, value)| Op::Entry(key, value)),
        4 => (0..keys).prop_map(Op::Get),
        4 => (0..keys, any::<u32>()).prop_map(|(key, value)| Op::Change(key, value)),
        4 => (0..keys).prop_map(Op::Peek),
        8 => (0..keys).prop_map(Op::Remove),
        1 => (1..5_u16).prop_map(Op::Retain),
        1 => Just(Op::Clear),
        1 => Just(Op::Restore),
    ]
}

fn any_ops() -> impl Strategy<Value = (usize, Vec<Op>)> {
    (1..40_usize, 1..80_u16)
        .prop_flat_map(|(capacity, keys)| (Just(capacity), proptest::collection::vec(any_op(keys), 0..300)))
}

fn restored(map: &BoundedMap<u16, u32>) -> BoundedMap<u16, u32> {
    let bytes = postcard::to_stdvec(map).expect("a map can be serialised");
    postcard::from_bytes(&bytes).expect("its state describes a map")
}

/// Does `op` to both and compares what they say.
fn apply(map: &mut BoundedMap<u16, u32>, model: &mut Model, op: &Op) {
    match *op {
        Op::Insert(key, value) => {
            assert_eq!(map.insert_or_evict(key, value), model.insert(key, value));
        }
        Op::Entry(key, value) => {
            let known = model.touch(key).map(|value| *value);
            let expected = known.map_or_else(|| model.insert(key, value), |_| None);
            let (got, evicted) = map.entry_or_insert_with(key, || value);
            assert_eq!((*got, evicted), (known.unwrap_or(value), expected));
        }
        Op::Get(key) => assert_eq!(map.get(&key), model.touch(key).map(|value| &*value)),
        Op::Change(key, new) => {
            let (got, expected) = (map.get_mut(&key), model.touch(key));
            assert_eq!(got, expected);
            if let (Some(got), Some(expected)) = (got, expected) {
                (*got, *expected) = (new, new);
            }
        }
        Op::Peek(key) => {
            let expected = model.entries.iter().find(|entry| entry.0 == key).map(|entry| &entry.1);
            assert_eq!((map.peek(&key), map.contains_key(&key)), (expected, expected.is_some()));
        }
        Op::Remove(key) => {
            let at = model.entries.iter().position(|entry| entry.0 == key);
            assert_eq!(map.remove(&key), at.map(|at| model.entries.remove(at).1));
        }
        Op::Retain(nth) => {
            map.retain(|key, value| {
                *value = value.wrapping_add(1);
                key % nth == 0
            });
            model.entries.retain_mut(|(key, value)| {
                *value = value.wrapping_add(1);
                *key % nth == 0
            });
        }
        Op::Clear => {
            map.clear();
            model.entries.clear();
        }
        Op::Restore => *map = restored(map),
    }
}

/// Compares the whole content: the order of use, the iteration, and that the index holds nothing else.
fn compare(map: &BoundedMap<u16, u32>, model: &Model) {
    let mut by_use: Vec<(u16, u32)> = map.chain(map.newest).filter_map(|slot| map.slots[slot as usize]).collect();
    by_use.reverse();
    assert_eq!(by_use, model.entries);
    assert_eq!((map.len(), map.is_empty()), (model.entries.len(), model.entries.is_empty()));
    let iterated: HashSet<(u16, u32)> = map.iter().map(|(key, value)| (*key, *value)).collect();
    assert_eq!(iterated, model.entries.iter().copied().collect());
    assert_eq!(map.cells.iter().filter(|cell| cell.slot != NONE).count(), map.len());
    assert_eq!(map.chain(map.free).count() + map.len(), map.slots.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn it_does_what_the_model_does((capacity, ops) in any_ops()) {
        let mut map = BoundedMap::with_capacity(capacity);
        let mut model = Model { capacity, ..Model::default() };
        for op in &ops {
            apply(&mut map, &mut model, op);
            compare(&map, &model);
        }
    }

    #[test]
    fn a_restored_map_goes_on_like_the_live_one((capacity, ops) in any_ops(), cut in any::<prop::sample::Index>()) {
        let mut model = Model { capacity, ..Model::default() };
        let mut live = BoundedMap::with_capacity(capacity);
        let (before, after) = ops.split_at(cut.index(ops.len() + 1));
        before.iter().for_each(|op| apply(&mut live, &mut model, op));
        let mut replayed = restored(&live);
        let mut second = Model { entries: model.entries.clone(), capacity };
        for op in after {
            apply(&mut live, &mut model, op);
            apply(&mut replayed, &mut second, op);
            prop_assert!(live.iter().eq(replayed.iter()), "the same order of iteration");
        }
        prop_assert_eq!(postcard::to_stdvec(&live), postcard::to_stdvec(&replayed));
    }

    #[test]
    fn a_forged_state_is_refused_or_sound(
        capacity in 0..8_u64,
        slots in proptest::collection::vec(proptest::option::of((0..4_u16, any::<u32>())), 0..5),
        used in proptest::collection::vec(0..6_u32, 0..5),
        free in proptest::collection::vec(0..6_u32, 0..3),
    ) {
        if let Ok(mut map) = read(&(capacity, slots, used, free)) {
            let entries = map.chain(map.newest).filter_map(|slot| map.slots[slot as usize]).collect::<Vec<_>>();
            let mut model = Model { entries: entries.into_iter().rev().collect(), capacity: capacity as usize };
            compare(&map, &model);
            for key in 0..12 {
                apply(&mut map, &mut model, &Op::Insert(key, 1));
                compare(&map, &model);
            }
        }
    }
}

/// Capacity, slots, used, free: as `state` has them.
type Forgery = (u64, Vec<Option<(u16, u32)>>, Vec<u32>, Vec<u32>);

/// What is forged, and how.
type Case = (&'static str, fn(&mut Forgery));

fn read(state: &Forgery) -> Result<BoundedMap<u16, u32>, postcard::Error> {
    postcard::from_bytes(&postcard::to_stdvec(state).expect("it can be serialised"))
}

#[test]
fn each_forgery_of_a_state_is_refused() {
    let good: Forgery = (4, vec![Some((1, 10)), None, Some((2, 20)), None], vec![2, 0], vec![1, 3]);
    let map = read(&good).expect("nothing is forged");
    assert_eq!((map.len(), map.peek(&2)), (2, Some(&20)));
    let forgeries: [Case; 13] = [
        ("no capacity", |state| state.0 = 0),
        ("a capacity below the slots", |state| state.0 = 3),
        ("a capacity beyond memory", |state| state.0 = u64::MAX),
        ("a capacity beyond reason", |state| state.0 = MAX_CAPACITY as u64),
        ("a key twice", |state| state.1[2] = Some((1, 20))),
        ("a used slot twice", |state| state.2 = vec![0, 0]),
        ("a used slot that is none", |state| state.2 = vec![0, 4]),
        ("a used slot that is empty", |state| (state.2, state.3) = (vec![0, 1], vec![2, 3])),
        ("a free slot twice", |state| state.3 = vec![3, 3]),
        ("a free slot that is none", |state| state.3 = vec![1, NONE]),
        ("a free slot that is filled", |state| (state.2, state.3) = (vec![0], vec![1, 2, 3])),
        ("a slot both used and free", |state| state.3 = vec![1, 0]),
        ("a slot in no list", |state| state.3 = vec![1]),
    ];
    for (case, forge) in forgeries {
        let mut state = good.clone();
        forge(&mut state);
        assert!(read(&state).is_err(), "{case}");
    }
}

/// All keys in one probe sequence: the worst that a peer who chooses them can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Colliding(u16);

impl std::hash::Hash for Colliding {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(7);
    }
}

#[test]
fn keys_that_all_collide_are_still_told_apart() {
    let mut map = BoundedMap::with_capacity(64);
    for key in 0..200 {
        let evicted = map.insert_or_evict(Colliding(key), key);
        assert_eq!(evicted, key.checked_sub(64).map(|old| (Colliding(old), old)));
    }
    for key in (136..200).step_by(3) {
        assert_eq!(map.remove(&Colliding(key)), Some(key));
    }
    for key in 136..200 {
        assert_eq!(map.peek(&Colliding(key)), Some(&key).filter(|_| (key - 136) % 3 != 0));
    }
}

#[test]
fn a_capacity_of_nothing_is_one() {
    let mut map = BoundedMap::with_capacity(0);
    assert_eq!(map.capacity(), 1);
    assert_eq!(map.insert_or_evict(1_u8, 'a'), None);
    assert_eq!(map.insert_or_evict(2, 'b'), Some((1, 'a')));
}

#[test]
fn values_can_be_changed_in_slot_order() {
    let mut map = BoundedMap::with_capacity(3);
    for key in [9_u8, 5, 7] {
        map.insert_or_evict(key, 0);
    }
    map.iter_mut().zip(1..).for_each(|((_, value), nth)| *value = nth);
    assert_eq!(map.remove(&5), Some(2));
    map.insert_or_evict(1, 4);
    assert_eq!(format!("{map:?}"), "{9: 1, 1: 4, 7: 3}");
    assert_eq!(map.insert_or_evict(2, 5), Some((9, 1)), "iterating is no use");
}
