//! The drill `disk`. In: nothing; out: an own loop device whose reads take 120 ms, because its backing file is slow.
//!
//! The slowness has to lie *below* the measured device: a throttle on the device itself delays the I/O before it is issued, and
//! no request would look slow. The backing file is served by the drill itself (see [`super::slowfs`]), so no tool, no disk
//! space and no cgroup controller is needed, and no other device gets slower.
//!
//! Not taken: a file on a throttled disk (needs the blkio controller, and slows the page cache of others), dm-delay (bio-based:
//! invisible to request tracepoints), nbd and null_blk (modules that a bare machine may lack).

use std::fs::OpenOptions;
use std::os::fd::AsFd;

use super::fuse::{DEVICE, FILE_BYTES, Mount};
use super::helper::{Helper, Word, hear, say, take_name};
use super::loopdev::{LoopDevice, read_block};
use super::slowfs::SlowFs;
use super::stage::Stage;
use super::verdict::Expected;
use super::{DrillError, PREFIX, Performance};
use crate::clock::monotonic_ns;

/// Helper that holds the loop device and reads from it.
pub const ROLE: &str = "disk";

/// How many slow reads there are; the detector wants 8 within 10 s, these take 2.4 s.
const READS: u64 = 20;

/// The drill `disk`.
pub fn perform(stage: &mut Stage) -> Result<Performance, DrillError> {
    let mut helper = Helper::start(ROLE, &[&format!("{PREFIX}{}", std::process::id())])?;
    let device = stage.ready(&mut helper)?;
    helper.order("go")?;
    let injected_ns = stage.injected(&mut helper)?;
    let expected = Expected { kind: "disk_latency", entity_kind: "device", entity_name: device, victim_pid: None };
    stage.wait_for_fault(&expected)?;
    stage.word(&mut helper)?;
    stage.dismiss(&mut helper)?;
    Ok(Performance { expected, injected_ns, healing: None })
}

/// Child side: makes the slow device, reads from it when told to, and takes it down.
pub fn help(args: &[String]) -> Result<(), DrillError> {
    take_name("fl-drill-disk")?;
    let label = args.first().map_or(PREFIX, String::as_str);
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = device.map_err(|error| DrillError::unavailable(format!("cannot open {DEVICE}: {error}")))?;
    let mount = Mount::make(device.as_fd())?;
    // From here on only the server holds the device: when it dies the kernel ends the connection and all waiting.
    let mut server = SlowFs::start(device)?;
    let backing = mount.open(label)?;
    let device = LoopDevice::attach(&backing, label)?;
    let outcome = play(&mut server, &device);
    device.release();
    drop((backing, mount, server));
    outcome
}

fn play(server: &mut SlowFs, device: &LoopDevice) -> Result<(), DrillError> {
    say(&Word::Ready(device.name.clone()))?;
    if !hear()? {
        return Ok(());
    }
    server.arm()?;
    say(&Word::Injected(monotonic_ns()))?;
    let mut slowest_ns = 0;
    for turn in 0..READS {
        let start = monotonic_ns();
        let read = read_block(&device.file, turn * FILE_BYTES / READS / 4096 * 4096);
        read.map_err(DrillError::system("read from", &*device.name))?;
        slowest_ns = slowest_ns.max(monotonic_ns() - start);
    }
    say(&Word::Done(format!("{slowest_ns}")))?;
    // The device stays until the drill has what it waits for.
    hear().map(drop)
}
