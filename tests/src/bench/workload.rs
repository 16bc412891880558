//! The fixed workload. In: nothing. Out: the time of so many process spawns and direct reads of an own loop device.
//!
//! The device lies over a file in memory: its requests take the whole way of a block request, and no disk's mood is in
//! the numbers.

use std::{fs::File, io::Write, process::Command};

use anyhow::{Context, Result, ensure};
use faultline::{
    clock::monotonic_ns,
    drill::loopdev::{LoopDevice, read_block},
};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::machine;

/// Processes that start, do nothing and end well.
pub const SPAWNS: u64 = 60;
/// Direct reads of 4096 bytes.
pub const READS: u64 = 3000;
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 1024;

/// What the workload works on.
pub struct Workload {
    device: Option<LoopDevice>,
}

impl Workload {
    /// Makes the device.
    ///
    /// # Errors
    /// There is no loop driver, or no free device.
    pub fn prepare() -> Result<Self> {
        let mut backing = File::from(memfd_create("faultline-bench", MFdFlags::MFD_CLOEXEC)?);
        for _ in 0..BLOCKS {
            backing.write_all(&[7; BLOCK as usize])?;
        }
        Ok(Self { device: Some(LoopDevice::attach(&backing, "faultline-bench")?) })
    }

    /// Once, on a CPU, before all other work there; how long it took, ns.
    ///
    /// # Errors
    /// A spawn or a read failed.
    pub fn run(&self, cpu: usize) -> Result<f64> {
        let device = self.device.as_ref().context("the device is there until the end")?;
        // A thread of its own: its place and its haste must not pass on to what the caller starts next.
        std::thread::scope(|scope| scope.spawn(|| work(device, cpu)).join())
            .map_err(|_| anyhow::anyhow!("the workload panicked"))?
    }
}

fn work(device: &LoopDevice, cpu: usize) -> Result<f64> {
    machine::pin(cpu).context("cannot pin the workload")?;
    machine::hurry();
    let begin = monotonic_ns();
    for _ in 0..SPAWNS {
        let status = Command::new("/bin/true").status().context("cannot start /bin/true")?;
        ensure!(status.success(), "/bin/true ended with {status}");
    }
    for nth in 0..READS {
        read_block(&device.file, nth % BLOCKS * BLOCK).context("a direct read")?;
    }
    Ok((monotonic_ns() - begin) as f64)
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            device.release();
        }
    }
}
