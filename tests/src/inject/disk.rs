//! `slow-disk` and `io-error`. In: modules of the running kernel (a VM). Out: reads that are slow or fail at
//! the level of requests, where the sensor listens; dm-delay and dm-flakey act above it and are not seen.

use std::{
    fs::{self, File},
    num::NonZeroUsize,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use faultline::clock::monotonic_ns;
use serde_json::json;

use super::{Injector, crash::object, tool};
use crate::truth::Expected;

/// Reads of the slow disk: the detector wants 8 outliers within 10 s.
const READS: usize = 10;
/// How long each takes; an outlier is 40 ms (of a rotating disk 150 ms).
const DELAY_MS: u64 = 60;
const BLOCK: usize = 4096;
/// scsi_debug's bad sectors start here.
const BAD_SECTOR: u64 = 4660;

/// A `null_blk` device that answers late, by its own timer.
#[derive(Debug)]
pub struct SlowDisk {
    device: String,
}

impl SlowDisk {
    /// Loads the module.
    ///
    /// # Errors
    /// There is none.
    pub fn prepare() -> Result<Self> {
        let delay = format!("completion_nsec={}", DELAY_MS * 1_000_000);
        tool(&["modprobe", "null_blk", "nr_devices=1", "queue_mode=2", "irqmode=2", &delay, "gb=1"])?;
        Ok(Self { device: "nullb0".into() })
    }
}

impl Injector for SlowDisk {
    fn name(&self) -> &'static str {
        "slow-disk"
    }

    fn sensor(&self) -> &'static str {
        "block_io"
    }

    fn inject(&mut self, _: &[String]) -> Result<Expected> {
        let disk = Disk::open(&self.device)?;
        let earliest_ns = monotonic_ns();
        for number in 0..READS {
            let start = monotonic_ns();
            disk.read((number * BLOCK) as u64)?;
            let took_ms = (monotonic_ns() - start) / 1_000_000;
            ensure!(took_ms >= DELAY_MS, "a read of {} took only {took_ms} ms", self.device);
        }
        Ok(expected("disk_latency", &self.device, earliest_ns, json!({ "by": "outlier_burst", "op": "read" }), 0))
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = tool(&["modprobe", "-r", "null_blk"]);
    }
}

/// A `scsi_debug` disk with unreadable sectors.
#[derive(Debug)]
pub struct BadDisk {
    device: String,
}

impl BadDisk {
    /// Loads the module and waits for its disk.
    ///
    /// # Errors
    /// There is no module, or no disk comes.
    pub fn prepare() -> Result<Self> {
        tool(&["modprobe", "sd_mod"])?;
        tool(&["modprobe", "scsi_debug", "dev_size_mb=8", "opts=2", "ndelay=1000"])?;
        let host = Path::new("/sys/bus/pseudo/drivers/scsi_debug/adapter0");
        // Loading returns when the host is there; the disk follows in a work item, usually before.
        let deadline = crate::agent::after(crate::agent::PATIENCE);
        while monotonic_ns() < deadline {
            if let Some(folder) = find_folder(host, "block", 6)
                && let Some(Ok(entry)) = fs::read_dir(folder)?.next()
            {
                let device = entry.file_name().to_string_lossy().into_owned();
                if Path::new("/dev").join(&device).exists() {
                    return Ok(Self { device });
                }
            }
            std::thread::yield_now();
        }
        bail!("scsi_debug made no disk below {}", host.display())
    }
}

/// A folder of this name below `start`.
fn find_folder(start: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let folders = fs::read_dir(start).ok()?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    let folders: Vec<_> = folders.map(|entry| entry.path()).collect();
    if let Some(found) = folders.iter().find(|path| path.file_name().is_some_and(|n| n == name)) {
        return Some(found.clone());
    }
    folders.iter().filter(|_| depth > 0).find_map(|folder| find_folder(folder, name, depth - 1))
}

impl Injector for BadDisk {
    fn name(&self) -> &'static str {
        "io-error"
    }

    fn sensor(&self) -> &'static str {
        "block_io"
    }

    fn inject(&mut self, _: &[String]) -> Result<Expected> {
        let disk = Disk::open(&self.device)?;
        let earliest_ns = monotonic_ns();
        let offset = BAD_SECTOR * 512 / BLOCK as u64 * BLOCK as u64;
        ensure!(disk.read(offset).is_err(), "the bad sector of {} could be read", self.device);
        // A medium error is ENODATA in the block layer and EIO to the reader.
        let evidence = json!({ "op": "read", "errno": libc::ENODATA });
        Ok(expected("disk_error", &self.device, earliest_ns, evidence, libc::ENODATA))
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        let _ = tool(&["modprobe", "-r", "scsi_debug"]);
    }
}

fn expected(kind: &str, device: &str, earliest_ns: u64, evidence: serde_json::Value, error: i32) -> Expected {
    Expected {
        kind: kind.into(),
        entity_kind: "device".into(),
        entity_name: device.into(),
        earliest_ns,
        latest_ns: monotonic_ns(),
        evidence: object(evidence),
        event: object(json!({
            "sensor": "block_io", "pid": null, "comm": null, "cgroup": null, "device": device, "op": "read", "error": error,
        })),
    }
}

/// An open disk, past the page cache.
struct Disk {
    file: File,
}

impl Disk {
    fn open(name: &str) -> Result<Self> {
        let path = Path::new("/dev").join(name);
        let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(&path);
        Ok(Self { file: file.with_context(|| format!("cannot open {}", path.display()))? })
    }

    /// Reads one block into memory that is aligned as O_DIRECT wants it.
    #[expect(unsafe_code, reason = "O_DIRECT needs aligned memory")]
    fn read(&self, offset: u64) -> Result<()> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
        let length = NonZeroUsize::new(BLOCK).context("a block has a size")?;
        let (rights, kind) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
        // SAFETY: the mapping is new, of BLOCK bytes, given to one read of BLOCK bytes and unmapped after it.
        let count = unsafe {
            let room = mmap_anonymous(None, length, rights, kind)?;
            let count = libc::pread(self.file.as_raw_fd(), room.as_ptr(), BLOCK, offset.cast_signed());
            let error = std::io::Error::last_os_error();
            munmap(room, BLOCK)?;
            if count < 0 {
                return Err(error).context("cannot read the disk");
            }
            count
        };
        ensure!(count == BLOCK as isize, "a read of {count} bytes");
        Ok(())
    }
}
