//! What the flight recorder's window is made of: records in, packed in blocks of 64 KiB, the same records out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::recorder::Kept;
use super::recording::RecordKind;
use crate::model::input::{CgroupName, DeviceName, DropReason, Fact};

/// Records are packed when they have grown to this many bytes.
const BLOCK: usize = 64 << 10;
/// Cgroup names remembered from before the window; as many as the exporter keeps.
const NAMES: usize = 32_768;
/// Names in one record.
const BATCH: usize = 1000;

/// A part of the window that starts with a snapshot of the engine.
pub(super) struct Segment {
    snapshot: Vec<u8>,
    packed: Vec<Vec<u8>>,
    raw: Vec<u8>,
    bytes: usize,
}

impl Segment {
    pub(super) fn new(snapshot: &[u8]) -> Self {
        let snapshot = lz4_flex::block::compress_prepend_size(snapshot);
        let bytes = snapshot.len();
        Self { snapshot, packed: Vec::new(), raw: Vec::new(), bytes }
    }

    /// The engine's state at its start.
    pub(super) fn snapshot(&self) -> Vec<u8> {
        // What this process packed, it can unpack.
        lz4_flex::block::decompress_size_prepended(&self.snapshot).unwrap_or_default()
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.raw.len()
    }

    pub(super) fn push(&mut self, record: Kept<'_>) {
        self.raw.push(record.kind.code());
        self.raw.extend_from_slice(&(record.body.len() as u32).to_le_bytes());
        self.raw.extend_from_slice(&record.seq.to_le_bytes());
        self.raw.extend_from_slice(record.body);
        if self.raw.len() >= BLOCK {
            let packed = lz4_flex::block::compress_prepend_size(&self.raw);
            self.bytes += packed.len();
            self.packed.push(packed);
            self.raw.clear();
        }
    }

    /// Every record in order, until `take` fails.
    pub(super) fn each<E>(&self, take: &mut impl FnMut(Kept<'_>) -> Result<(), E>) -> Result<(), E> {
        for packed in &self.packed {
            each_of(&lz4_flex::block::decompress_size_prepended(packed).unwrap_or_default(), take)?;
        }
        each_of(&self.raw, take)
    }

    /// Hands the names that were told in this segment to the memory of names.
    pub(super) fn names(&self, names: &mut Names) {
        let done: Result<(), std::convert::Infallible> = self.each(&mut |record| {
            if record.kind == RecordKind::Input {
                names.learn(record.body);
            }
            Ok(())
        });
        let Ok(()) = done;
    }
}

fn each_of<E>(mut raw: &[u8], take: &mut impl FnMut(Kept<'_>) -> Result<(), E>) -> Result<(), E> {
    while let Some((record, rest)) = Kept::split(raw) {
        take(record)?;
        raw = rest;
    }
    Ok(())
}

/// Names that were told before the window.
#[derive(Default)]
pub(super) struct Names {
    cgroups: BTreeMap<(u8, u64), CgroupName>,
    devices: BTreeMap<u32, DeviceName>,
    /// The cgroup paths that no action may touch; told once, at the start.
    own: Option<Arc<[String]>>,
    /// Told once at the start, too.
    reasons: Option<Arc<[DropReason]>>,
}

impl Names {
    /// Takes a serialised fact in; only names are kept.
    pub(super) fn learn(&mut self, body: &[u8]) {
        match postcard::from_bytes(body) {
            Ok(Fact::Cgroups(names)) => {
                for name in names.iter() {
                    // Ids grow, so the first is most likely the oldest and long dead.
                    while self.cgroups.len() >= NAMES {
                        self.cgroups.pop_first();
                    }
                    self.cgroups.insert((name.trees, name.id), name.clone());
                }
            }
            Ok(Fact::Devices(names)) => {
                names.iter().for_each(|name| _ = self.devices.insert(name.dev, name.clone()));
            }
            // Before the window nobody speaks of the dead any more, and they have no share in a blast radius.
            Ok(Fact::Gone(gone)) => {
                let gone: BTreeSet<_> = gone.iter().map(|name| (name.trees, name.path.as_str())).collect();
                self.cgroups.retain(|_, name| !gone.contains(&(name.trees, name.path.as_str())));
            }
            Ok(Fact::Own(paths)) => self.own = Some(paths),
            Ok(Fact::DropReasons(names)) => self.reasons = Some(names),
            _ => {}
        }
    }

    /// All of them as serialised facts.
    pub(super) fn told(&self) -> Vec<Vec<u8>> {
        let cgroups: Vec<CgroupName> = self.cgroups.values().cloned().collect();
        let devices: Vec<DeviceName> = self.devices.values().cloned().collect();
        let cgroups = cgroups.chunks(BATCH).map(|batch| Fact::Cgroups(batch.into()));
        let devices = devices.chunks(BATCH).map(|batch| Fact::Devices(batch.into()));
        // Plain structs of numbers and strings always serialise.
        let own = self.own.clone().map(Fact::Own);
        let reasons = self.reasons.clone().map(Fact::DropReasons);
        own.into_iter()
            .chain(reasons)
            .chain(cgroups)
            .chain(devices)
            .filter_map(|fact| postcard::to_stdvec(&fact).ok())
            .collect()
    }
}
