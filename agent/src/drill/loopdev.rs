//! Loop devices by their ioctls. In: an open backing file; out: a read-only block device that vanishes with its last holder.
//!
//! Numbers and layouts are those of `include/uapi/linux/loop.h`; `LOOP_CONFIGURE` is there since 5.8. The device is read-only,
//! so nothing can ever be dirty above a backing that may die, and auto-clearing, so it falls when its holder is killed.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::{DrillError, PREFIX};

const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CTL_REMOVE: libc::c_ulong = 0x4C81;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often a free device is asked for, should another process take it first.
const ATTACH_TRIES: usize = 8;

const CONTROL: &str = "/dev/loop-control";

/// `struct loop_info64`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<Info>() == 232 && size_of::<Config>() == 304);

/// An attached loop device, opened for direct reads.
#[derive(Debug)]
pub struct LoopDevice {
    /// For example `loop3`.
    pub name: String,
    /// Reads go past the page cache.
    pub file: File,
    number: i32,
    made_here: bool,
}

impl LoopDevice {
    /// Puts `backing` behind a free loop device and labels it.
    ///
    /// # Errors
    /// There is no loop driver, or no free device.
    pub fn attach(backing: &File, label: &str) -> Result<Self, DrillError> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        let control = control.map_err(|error| DrillError::unavailable(format!("cannot open {CONTROL}: {error}")))?;
        let before = numbers();
        for _ in 0..ATTACH_TRIES {
            let number =
                ioctl(&control, LOOP_CTL_GET_FREE, 0).map_err(DrillError::system("get a free device from", CONTROL))?;
            if let Some(device) = Self::try_attach(backing, label, number, !before.contains(&number))? {
                return Ok(device);
            }
        }
        Err(DrillError::unavailable(format!("other processes took each free loop device first, {ATTACH_TRIES} times")))
    }

    /// `None`: another process was faster.
    fn try_attach(backing: &File, label: &str, number: i32, made_here: bool) -> Result<Option<Self>, DrillError> {
        let name = format!("loop{number}");
        let path = format!("/dev/{name}");
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
        let file = file.map_err(DrillError::system("open", &*path))?;
        let config = Config::of(backing, label);
        match ioctl(&file, LOOP_CONFIGURE, config.as_bytes().as_ptr().expose_provenance()) {
            Ok(_) => Ok(Some(Self { name, file, number, made_here })),
            Err(Errno::EBUSY) => Ok(None),
            Err(errno) => Err(DrillError::system("attach the slow file to", path)(errno)),
        }
    }

    /// Lets go of the device; the kernel clears it at the last close, which is this one unless somebody looks at it.
    pub fn release(self) {
        drop(self.file);
        // A device node that did not exist before goes, too. Refused while it is in use; then it stays for its next user.
        if self.made_here
            && let Ok(control) = OpenOptions::new().read(true).write(true).open(CONTROL)
        {
            let number = usize::try_from(self.number).unwrap_or_default();
            let _ = ioctl(&control, LOOP_CTL_REMOVE, number);
        }
    }
}

impl Config {
    fn of(backing: &File, label: &str) -> Self {
        let mut config = Self::new_zeroed();
        config.fd = backing.as_raw_fd().cast_unsigned();
        config.info.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
        for (to, from) in config.info.file_name.iter_mut().take(63).zip(label.bytes()) {
            *to = from;
        }
        config
    }
}

/// A loop device over a drill's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// For example `loop3`.
    pub device: String,
    /// The backing file as the kernel names it.
    pub backing: String,
    /// The drill in that name.
    pub pid: u32,
}

impl Leftover {
    /// Detaches it; false when it was gone already.
    ///
    /// # Errors
    /// The device cannot be opened, or the kernel refuses.
    pub fn detach(&self) -> Result<bool, DrillError> {
        let path = format!("/dev/{}", self.device);
        let file = File::open(&path).map_err(DrillError::system("open", &*path))?;
        // Between the list and the open the device may have been cleared and given to somebody else.
        if backing_of(&self.device).as_deref() != Some(&*self.backing) {
            return Ok(false);
        }
        match ioctl(&file, LOOP_CLR_FD, 0) {
            Ok(_) => Ok(true),
            Err(Errno::ENXIO) => Ok(false),
            Err(errno) => Err(DrillError::system("detach", path)(errno)),
        }
    }
}

/// All loop devices over files with the drills' name.
pub fn leftovers() -> Vec<Leftover> {
    let names = numbers().into_iter().map(|number| format!("loop{number}"));
    names.filter_map(|device| backing_of(&device).and_then(|backing| leftover(device, backing))).collect()
}

fn leftover(device: String, backing: String) -> Option<Leftover> {
    let (_, rest) = backing.rsplit_once(PREFIX)?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let pid = digits.parse().ok()?;
    Some(Leftover { device, backing, pid })
}

/// What is behind a loop device, or `None` when nothing is.
fn backing_of(device: &str) -> Option<String> {
    let path = Path::new("/sys/block").join(device).join("loop/backing_file");
    Some(std::fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// The numbers of the loop devices that exist.
fn numbers() -> BTreeSet<i32> {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("loop")?.parse().ok()).collect()
}

fn ioctl(file: &File, request: libc::c_ulong, argument: usize) -> Result<i32, Errno> {
    #[expect(unsafe_code, reason = "the loop driver speaks ioctl only")]
    // SAFETY: the descriptor is open; of the requests used here only LOOP_CONFIGURE reads memory, and its argument is the
    // address of a whole `Config` that outlives the call. The others take a number.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    Errno::result(answer)
}

/// Reads one block of 4096 bytes past the page cache.
///
/// # Errors
/// The device fails the read, or ends before the block does.
pub fn read_block(file: &File, offset: u64) -> io::Result<()> {
    /// Direct reads need memory aligned to the device's block.
    #[repr(align(4096))]
    struct Block([u8; 4096]);
    let mut block = Box::new(Block([0; 4096]));
    std::os::unix::fs::FileExt::read_exact_at(file, &mut block.0, offset)
}

#[cfg(test)]
mod tests {
    use super::leftover;

    #[test]
    fn only_files_with_the_drills_name_are_leftovers() {
        let left = |backing: &str| leftover("loop3".into(), backing.into()).map(|left| left.pid);
        assert_eq!(left("/faultline-drill-4711"), Some(4711));
        assert_eq!(left("/faultline-drill-4711 (deleted)"), Some(4711));
        assert_eq!(left("/home/disk.img"), None);
        assert_eq!(left("/faultline-drill-x"), None);
    }
}
