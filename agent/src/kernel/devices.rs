//! In: `/sys/block`. Out: the block devices of this machine, under the number by which kernel events name them.
//!
//! eBPF sees `dev_t` as the kernel stores it (`include/linux/kdev_t.h`: 12 bits major, 20 bits minor), which is not
//! what `stat` returns; the device numbers here are in that form, so that they compare with an event as they are.

use std::io;
use std::path::{Path, PathBuf};

use super::Root;

const BLOCK: &str = "/sys/block";
const MINOR_BITS: u32 = 20;

/// What stands behind a device, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// A file as a device.
    Loop,
    /// Device mapper (bio-based: its requests are those of the devices below).
    Dm,
    /// Software RAID (likewise bio-based).
    Md,
    /// virtio disk of a guest.
    Virtio,
    /// NVMe namespace.
    Nvme,
    /// SCSI, SATA or USB disk.
    Scsi,
    /// Anything else (zram, nbd, sr, mmcblk, xvd, ...).
    Other,
}

impl DeviceKind {
    /// By the prefix that the driver gives (`vda`, `nvme0n1`), which must be followed by what that driver appends.
    fn of(name: &str) -> Self {
        let digit_after =
            |prefix| name.strip_prefix(prefix).is_some_and(|rest: &str| rest.starts_with(|c: char| c.is_ascii_digit()));
        let letter_after = |prefix| {
            name.strip_prefix(prefix).is_some_and(|rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase()))
        };
        match name {
            _ if digit_after("loop") => Self::Loop,
            _ if digit_after("dm-") => Self::Dm,
            _ if digit_after("md") || name.starts_with("md_") => Self::Md,
            _ if letter_after("vd") => Self::Virtio,
            _ if digit_after("nvme") => Self::Nvme,
            _ if letter_after("sd") => Self::Scsi,
            _ => Self::Other,
        }
    }
}

/// One whole-disk block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// Name in `/sys/block`.
    pub name: String,
    /// `major << 20 | minor`, as in events.
    pub dev: u32,
    /// Capacity in sectors of 512 bytes; 0 for an unbound loop device.
    pub size_sectors: u64,
    /// Whether the kernel takes it for a spinning disk.
    pub rotational: bool,
    /// What stands behind it.
    pub kind: DeviceKind,
}

/// Why there is no list of devices.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The directory cannot be read.
    #[error("cannot list block devices in {}: {source} (is sysfs mounted on /sys?)", path.display())]
    List {
        /// Directory that was tried.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// All block devices, by name. A device without a number is left out: it vanished while being read, or it is the
/// hidden disk of one path of an NVMe multipath device, whose number sysfs does not tell; events of it are printed by number.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(root: &Root) -> Result<Vec<BlockDevice>, DeviceError> {
    let path = root.path(BLOCK);
    let entries = std::fs::read_dir(&path).map_err(|source| DeviceError::List { path, source })?;
    let mut devices: Vec<BlockDevice> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(devices)
}

fn read(dir: &Path) -> Option<BlockDevice> {
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).ok().map(|text| text.trim().to_owned());
    let name = dir.file_name()?.to_str()?.to_owned();
    Some(BlockDevice {
        dev: kernel_dev(&text("dev")?)?,
        size_sectors: text("size").and_then(|size| size.parse().ok()).unwrap_or(0),
        rotational: text("queue/rotational").as_deref() == Some("1"),
        kind: DeviceKind::of(&name),
        name,
    })
}

/// `254:16` to the kernel's own encoding, `major << 20 | minor`, as events carry it.
pub fn kernel_dev(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major >> (32 - MINOR_BITS) == 0 && minor >> MINOR_BITS == 0).then_some(major << MINOR_BITS | minor)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn lists_by_name_and_skips_what_has_no_number() {
        let fixture = Fixture::new()
            .file("/sys/block/vda/dev", "254:0\n")
            .file("/sys/block/vda/size", "536870912\n")
            .file("/sys/block/vda/queue/rotational", "1\n")
            .file("/sys/block/loop3/dev", "7:3\n")
            .file("/sys/block/nvme0c0n1/size", "8\n");
        let devices = list(fixture.root()).expect("a directory");
        let vda = BlockDevice {
            name: "vda".into(),
            dev: 254 << 20,
            size_sectors: 536_870_912,
            rotational: true,
            kind: DeviceKind::Virtio,
        };
        assert_eq!(devices.len(), 2);
        assert_eq!((devices[0].name.as_str(), devices[0].dev, devices[0].rotational), ("loop3", 7 << 20 | 3, false));
        assert_eq!(devices[1], vda);
    }

    #[test]
    fn kinds_by_name() {
        use DeviceKind::*;
        let cases = [
            ("loop0", Loop),
            ("dm-12", Dm),
            ("md127", Md),
            ("md_d0", Md),
            ("vdb", Virtio),
            ("nvme0n1", Nvme),
            ("sdaa", Scsi),
            ("zram0", Other),
            ("sr0", Other),
            ("nbd1", Other),
            ("xvda", Other),
            ("nvmeof", Other),
        ];
        for (name, kind) in cases {
            assert_eq!(DeviceKind::of(name), kind, "{name}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(kernel_dev("4095:1048575"), Some(u32::MAX));
        for text in ["4096:0", "0:1048576", "8", "8:", ":1", "-1:0", ""] {
            assert_eq!(kernel_dev(text), None, "{text:?}");
        }
    }

    #[test]
    fn without_sysfs_the_error_names_the_directory() {
        let error = list(Fixture::new().root()).expect_err("no directory");
        assert!(error.to_string().contains("/sys/block"), "{error}");
    }
}
