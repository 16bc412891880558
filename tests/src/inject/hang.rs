//! `hang`. In: device-mapper and loop devices (a VM), and the hung-task check made quick. Out: a child that waits for a disk
//! that was suspended, until the kernel says that it hangs; then the disk goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use serde_json::json;

use super::{Injector, crash::object, tool};
use crate::truth::Expected;

const CHECK: &str = "/proc/sys/kernel/hung_task_check_interval_secs";
const TIMEOUT: &str = "/proc/sys/kernel/hung_task_timeout_secs";
const NAME: &str = "fl-hang";
/// From the suspension to the first report: the timeout, and a check more.
const SECONDS: u64 = 5;

/// A linear device over a loop device over a file in memory.
#[derive(Debug)]
pub struct Hang {
    backing: PathBuf,
    loop_device: String,
    /// What the two settings were.
    before: [String; 2],
}

impl Hang {
    /// Makes the device and hurries the check.
    ///
    /// # Errors
    /// There are no modules, or no settings.
    pub fn prepare() -> Result<Self> {
        tool(&["modprobe", "loop"])?;
        tool(&["modprobe", "dm-mod"])?;
        let backing = std::env::temp_dir().join(format!("{NAME}-{}", std::process::id()));
        fs::File::create(&backing)?.set_len(8 << 20)?;
        let found = Command::new("losetup").arg("-f").output().context("losetup")?;
        let loop_device = String::from_utf8_lossy(&found.stdout).trim().to_owned();
        ensure!(loop_device.starts_with("/dev/loop"), "no free loop device: {loop_device}");
        tool(&["losetup", &loop_device, &backing.display().to_string()])?;
        dmsetup(&["create", NAME, "--table", &format!("0 16384 linear {loop_device} 0")])?;
        let before = [CHECK, TIMEOUT].map(|file| fs::read_to_string(file).unwrap_or_default());
        for (file, value) in [(CHECK, "1"), (TIMEOUT, "2")] {
            fs::write(file, value).with_context(|| file.to_owned())?;
        }
        Ok(Self { backing, loop_device, before })
    }
}

/// Without udev nobody else would make its node.
fn dmsetup(words: &[&str]) -> Result<()> {
    tool(&[&["env", "DM_DISABLE_UDEV=1", "dmsetup"], words].concat())
}

impl Injector for Hang {
    fn name(&self) -> &'static str {
        "hang"
    }

    fn sensor(&self) -> &'static str {
        "task_hang"
    }

    fn inject(&mut self, missing: &[String]) -> Result<Expected> {
        let path = Path::new("/dev/mapper").join(NAME);
        dmsetup(&["suspend", "--nolockfs", NAME])?;
        let earliest_ns = monotonic_ns();
        let mut writer = Command::new("dd");
        let output = format!("of={}", path.display());
        writer.args(["if=/dev/zero", &output, "bs=4k", "count=1", "conv=fsync,notrunc"]).stderr(Stdio::null());
        let mut writer = writer.spawn().context("cannot start dd")?;
        // The fault is made of time: as long as it takes the kernel to notice.
        let until = earliest_ns + SECONDS * 1_000_000_000;
        while monotonic_ns() < until {
            ensure!(writer.try_wait()?.is_none(), "the writer did not wait for the disk");
            nix::poll::poll(&mut [], nix::poll::PollTimeout::from(100u8))?;
        }
        let latest_ns = monotonic_ns();
        dmsetup(&["resume", NAME])?;
        ensure!(writer.wait()?.success(), "the writer failed");
        let pid = writer.id();
        let mut event = object(json!({ "sensor": "task_hang", "pid": pid, "comm": "dd", "tgid": pid, "uid": 0 }));
        for field in missing {
            event.remove(field);
        }
        Ok(Expected {
            kind: "task_hang".into(),
            entity_kind: "process".into(),
            entity_name: pid.to_string(),
            earliest_ns,
            latest_ns,
            evidence: object(json!({ "pid": pid, "comm": "dd" })),
            event,
        })
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        for (file, value) in [CHECK, TIMEOUT].iter().zip(&self.before) {
            let _ = fs::write(file, value.trim());
        }
        let _ = dmsetup(&["remove", NAME]);
        let _ = tool(&["losetup", "-d", &self.loop_device]);
        let _ = fs::remove_file(&self.backing);
    }
}
