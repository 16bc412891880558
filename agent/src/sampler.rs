//! The sampler: mapped arrays and sysfs in, readings as facts out, once a second, outside the reactor.

use std::{collections::HashMap, os::fd::AsFd, sync::Arc};

use aya::programs::ProgramFd;
use faultline_common::{
    counter::{COUNTERS, CounterSlice},
    hist::{self, BUCKETS, DEVICE_SLOTS, OPS, Row},
    sensor::SENSORS,
    tunable::{DEVICE_PROBES, DeviceEntry, device_position},
};

use crate::{
    clock,
    config::DiskLatency,
    kernel::{BlockDevice, DeviceKind, Root, devices},
    model::input::{CounterReading, DeviceName, DiskReading, Fact},
    sensor::loader::{Arrays, fdinfo},
};

/// Reads the kernel-side counters; also asked for the last time after the drain.
pub struct Counters {
    arrays: Arc<Arrays>,
    programs: Vec<(u16, &'static str, ProgramFd)>,
}

impl Counters {
    /// Over the mapped counters and the programs' descriptors.
    pub fn new(arrays: Arc<Arrays>, programs: Vec<(u16, &'static str, ProgramFd)>) -> Self {
        Self { arrays, programs }
    }

    /// The sums over all CPUs now.
    pub fn read(&self) -> CounterReading {
        CounterReading { now_ns: clock::monotonic_ns(), sums: self.sums(), missed: self.missed() }
    }

    fn sums(&self) -> [[u64; COUNTERS]; SENSORS] {
        let slice = size_of::<CounterSlice>() / 8;
        let sum = |cell: usize| (0..self.arrays.cpus).map(|cpu| self.arrays.counters.get(cpu * slice + cell)).sum();
        std::array::from_fn(|sensor| std::array::from_fn(|counter| sum(sensor * COUNTERS + counter)))
    }

    /// Runs the kernel skipped, `recursion_misses` of fdinfo; unknown if any program of the sensor is silent.
    fn missed(&self) -> [Option<u64>; SENSORS] {
        let mut missed = [None; SENSORS];
        for (sensor, _, fd) in &self.programs {
            let place = &mut missed[usize::from(*sensor)];
            let own = fdinfo(fd.as_fd(), "recursion_misses:");
            *place = match (*place, own) {
                (None, own) => own,
                (Some(sum), Some(own)) => Some(sum + own),
                (Some(_), None) => None,
            };
        }
        missed
    }
}

/// Latency histograms, one device and operation class at a time.
pub struct Disks {
    arrays: Arc<Arrays>,
    rule: DiskLatency,
    slots: HashMap<u32, u32>,
    names: Vec<String>,
    before: HashMap<(u32, u32), [u64; BUCKETS]>,
}

impl Disks {
    /// No devices yet; [`Self::refresh`] finds them.
    pub fn new(arrays: Arc<Arrays>, rule: DiskLatency) -> Self {
        Self { arrays, rule, slots: HashMap::new(), names: Vec::new(), before: HashMap::new() }
    }

    /// Enters devices that are new, lets go of those that are gone, and says the new names.
    pub fn refresh(&mut self) -> Option<Fact> {
        let names = listing();
        if names == self.names {
            return None;
        }
        self.names = names;
        let mut devices = devices::list(&Root::live()).unwrap_or_default();
        self.forget(&devices);
        // Devices that hold something first: there are fewer slots than a machine may have idle loop devices.
        devices.sort_by_key(|d| (d.size_sectors == 0, d.dev));
        let fresh: Vec<_> = devices.iter().filter(|d| !self.slots.contains_key(&d.dev)).collect();
        let names: Vec<_> = fresh.iter().map(|d| DeviceName { dev: d.dev, name: d.name.clone() }).collect();
        fresh.into_iter().for_each(|d| self.enter(d));
        (!names.is_empty()).then(|| Fact::Devices(Arc::from(names)))
    }

    /// Frees the slots of devices that are gone.
    fn forget(&mut self, devices: &[BlockDevice]) {
        let gone: Vec<u32> = self.slots.keys().copied().filter(|dev| devices.iter().all(|d| d.dev != *dev)).collect();
        for dev in gone {
            if let Some(at) = self.entry(|key| key != DeviceEntry::GONE && (key >> 32) as u32 == dev, dev) {
                self.arrays.devices.set(at, DeviceEntry::GONE);
            }
            self.slots.remove(&dev);
            self.before.retain(|(of, _), _| *of != dev);
        }
    }

    /// Gives a device its histogram slot and threshold; slot 0 when there is none left.
    fn enter(&mut self, device: &BlockDevice) {
        let free = (1..DEVICE_SLOTS).find(|slot| self.slots.values().all(|taken| taken != slot));
        let slot = free.unwrap_or(0);
        self.slots.insert(device.dev, slot);
        for op_class in 0..OPS {
            // What the slot's former device did is not this one's.
            self.before.insert((device.dev, op_class), self.sums(slot, op_class));
        }
        let is_spinning = device.rotational && device.kind == DeviceKind::Scsi;
        let outlier_ns = if is_spinning { self.rule.rotational_outlier_ns } else { self.rule.outlier_ns };
        if let Some(at) = self.entry(|key| key == 0 || key == DeviceEntry::GONE, device.dev) {
            // The threshold before the key: a program that finds the key finds the threshold.
            self.arrays.devices.set(at + 1, outlier_ns);
            self.arrays.devices.set(at, DeviceEntry::pack(device.dev, slot));
        }
    }

    /// Cell of the first entry on a device's probing path whose key fits.
    fn entry(&self, fits: impl Fn(u64) -> bool, dev: u32) -> Option<usize> {
        let cells = size_of::<DeviceEntry>() / 8;
        let mut path = (0..DEVICE_PROBES).map(|probe| device_position(dev, probe) as usize * cells);
        path.find(|at| fits(self.arrays.devices.get(*at)))
    }

    /// The windows that ended now, of devices that did anything.
    pub fn read(&mut self) -> Vec<DiskReading> {
        let now_ns = clock::monotonic_ns();
        let mut slots: Vec<_> = self.slots.iter().map(|(dev, slot)| (*dev, *slot)).filter(|s| s.1 != 0).collect();
        slots.sort_unstable();
        let mut readings = Vec::new();
        for (dev, slot) in slots {
            for op_class in 0..OPS {
                let sums = self.sums(slot, op_class);
                let before = self.before.entry((dev, op_class)).or_insert([0; BUCKETS]);
                let window: [u64; BUCKETS] = std::array::from_fn(|b| sums[b].wrapping_sub(before[b]));
                *before = sums;
                let count = window.iter().sum();
                if count > 0 {
                    let (p50_ns, p99_ns) = (hist::quantile(&window, 500), hist::quantile(&window, 990));
                    readings.push(DiskReading { now_ns, dev, op_class, count, p50_ns, p99_ns });
                }
            }
        }
        readings
    }

    fn sums(&self, slot: u32, op_class: u32) -> [u64; BUCKETS] {
        let cells = size_of::<Row>() / 8;
        let mut sums = [0; BUCKETS];
        for cpu in 0..self.arrays.cpus {
            let start = hist::row(cpu as u32, slot, op_class) as usize * cells;
            for (bucket, sum) in sums.iter_mut().enumerate() {
                *sum += self.arrays.hist.get(start + bucket);
            }
        }
        sums
    }
}

/// Names below /sys/block: cheap enough to compare every second.
fn listing() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}
