//! Create: the object and this machine in, its maps out, and what had to be given up for them.
//!
//! aya creates all maps of an object together, so a map that fails to create is shrunk to its minimum, the
//! sensors that need it are marked broken, and the object is loaded again.

use std::{collections::BTreeMap, os::fd::AsFd};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError, RingBuf},
};
use faultline_common::{
    counter::CounterSlice,
    hist::{DEVICE_SLOTS, OPS, Row},
    offsets::Offsets,
    tunable::{DEVICE_ENTRIES, DeviceEntry, Tunables},
};

use super::{
    COMMON_MAPS, OBJECT_BYTES, SENSORS,
    loader::{Arrays, LoadError, Options},
};
use crate::{
    config::Config,
    kernel::{Capability, KernelFacts},
    source::mapped::MappedArray,
};

/// A loaded object without programs.
pub(super) struct Created {
    pub(super) ebpf: Ebpf,
    /// Entries of the maps that do not have the number compiled in.
    entries: BTreeMap<&'static str, u32>,
    /// Sensors that lost a map, and why.
    pub(super) broken: BTreeMap<u16, String>,
    /// What had to be changed to load at all.
    pub(super) notes: Vec<String>,
}

/// Creates all maps; shrinks those that cannot be created.
pub(super) fn create(
    facts: &KernelFacts,
    config: &Config,
    options: &Options,
    offsets: &Offsets,
) -> Result<Created, LoadError> {
    let cpus = facts.possible_cpus;
    let mut entries: BTreeMap<&'static str, u32> = BTreeMap::from([
        ("COUNTERS", cpus),
        ("BLOCK_HIST", cpus * DEVICE_SLOTS * OPS),
        ("CRITICAL", config.rings.critical_bytes),
        ("BULK", config.rings.bulk_bytes),
    ]);
    let (mut broken, mut notes) = (BTreeMap::new(), Vec::new());
    let level: u8 = if options.debug { aya_log::Level::Debug as u8 } else { 0 };
    loop {
        let mut loader = EbpfLoader::new();
        loader.override_global("OFFSETS", offsets, true).override_global("AYA_LOG_LEVEL", &level, false);
        for (map, count) in &entries {
            loader.map_max_entries(map, *count);
        }
        let error = match loader.load(OBJECT_BYTES) {
            Ok(ebpf) => return Ok(Created { ebpf, entries, broken, notes }),
            Err(error) => error,
        };
        let EbpfError::MapError(MapError::CreateError { name, io_error }) = error else {
            return Err(LoadError::Object { release: facts.release.clone(), source: Box::new(error) });
        };
        // Before 5.11 the kernel charges maps to RLIMIT_MEMLOCK and says EPERM when that is too low: with the
        // capability, a smaller map may do.
        let refused = io_error.raw_os_error() == Some(libc::EPERM);
        let at_minimum = known(&name).is_none_or(|map| entries.get(map) == Some(&minimum(map, facts.page_size)));
        if refused && (!may_bpf(facts) || at_minimum) {
            return Err(LoadError::Refused { map: name, source: io_error, hint: capability_hint(facts) });
        }
        shrink(name, io_error, facts.page_size, &mut entries, &mut broken, &mut notes)?;
    }
}

fn may_bpf(facts: &KernelFacts) -> bool {
    facts.capabilities.has(Capability::Bpf) || facts.capabilities.has(Capability::SysAdmin)
}

fn capability_hint(facts: &KernelFacts) -> String {
    let missing: Vec<_> = facts.capabilities.missing_for_agent().into_iter().map(|m| m.0).collect();
    if missing.is_empty() { String::new() } else { format!(" (missing: {})", missing.join(", ")) }
}

/// The name of a map as a constant, if it is one of ours.
fn known(name: &str) -> Option<&'static str> {
    SENSORS.iter().flat_map(|s| s.maps).chain(&COMMON_MAPS).find(|m| **m == name).copied()
}

/// The smallest that a map can be: entries, or bytes for a ring.
fn minimum(map: &str, page_size: u32) -> u32 {
    if matches!(map, "CRITICAL" | "BULK") { page_size } else { 1 }
}

/// Takes a map that cannot be created down to its minimum and marks its sensors broken.
fn shrink(
    name: String,
    io_error: std::io::Error,
    page_size: u32,
    entries: &mut BTreeMap<&'static str, u32>,
    broken: &mut BTreeMap<u16, String>,
    notes: &mut Vec<String>,
) -> Result<(), LoadError> {
    let (known, minimum) = (known(&name), minimum(&name, page_size));
    let before = known.and_then(|map| entries.get(map).copied());
    let Some(map) = known.filter(|_| before != Some(minimum)) else {
        return Err(LoadError::Map { map: name, entries: minimum, source: io_error });
    };
    let asked = before.map_or("its default size".to_owned(), |n| format!("{n} entries or bytes"));
    let error = format!(
        "map {map} could not be created with {asked}: {io_error}; {}free memory, or raise RLIMIT_MEMLOCK before Linux 5.11",
        if matches!(map, "CRITICAL" | "BULK") {
            format!("lower rings.{}_bytes, ", map.to_lowercase())
        } else {
            String::new()
        }
    );
    for sensor in SENSORS.iter().filter(|s| s.maps.contains(&map) || COMMON_MAPS.contains(&map)) {
        broken.insert(sensor.number, error.clone());
    }
    notes.push(format!("map {map} was shrunk to {minimum}: {io_error}"));
    entries.insert(map, minimum);
    Ok(())
}

pub(super) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(d) | Map::RingBuf(d) | Map::HashMap(d) | Map::LruHashMap(d) => Some(d),
        _ => None,
    }
}

pub(super) fn ring(ebpf: &mut Ebpf, map: &'static str) -> Result<RingBuf<MapData>, LoadError> {
    let taken = ebpf.take_map(map).ok_or(LoadError::Drift { map })?;
    RingBuf::try_from(taken).map_err(|_| LoadError::Drift { map })
}

pub(super) fn arrays(created: &mut Created, cpus: usize, page: usize) -> Result<Arrays, LoadError> {
    let rows = cpus * (DEVICE_SLOTS * OPS) as usize;
    Ok(Arrays {
        counters: mapped::<CounterSlice>(created, "COUNTERS", cpus, page)?,
        hist: mapped::<Row>(created, "BLOCK_HIST", rows, page)?,
        devices: mapped::<DeviceEntry>(created, "DEVICES", DEVICE_ENTRIES as usize, page)?,
        tunables: mapped::<Tunables>(created, "TUNABLES", 1, page)?,
        cpus,
    })
}

/// A map that was shrunk is mapped as far as it goes: what lies outside reads as 0.
fn mapped<T>(created: &Created, map: &'static str, wanted: usize, page: usize) -> Result<MappedArray, LoadError> {
    let fd = created.ebpf.map(map).and_then(data).ok_or(LoadError::Drift { map })?.fd();
    let elements = created.entries.get(map).map_or(wanted, |entries| wanted.min(*entries as usize));
    MappedArray::new::<T>(fd.as_fd(), elements, page).map_err(|source| LoadError::Mmap { map, source })
}
