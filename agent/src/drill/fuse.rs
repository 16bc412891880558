//! The FUSE protocol as far as one read-only file needs it. In: requests as bytes; out: replies as bytes, and the mount.
//!
//! Layouts and numbers are those of `include/uapi/linux/fuse.h`, protocol 7.31 (Linux 5.4); newer kernels speak it to a server
//! that asks for it. The mount is made by `fsopen`/`fsmount` (5.2) and never attached to a directory: no mount namespace and no
//! mount point are needed, nobody can walk into it, and it is gone when its last descriptor closes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::DrillError;
use super::child::owned;

/// The device that requests are read from and replies are written to.
pub const DEVICE: &str = "/dev/fuse";

/// Size of the one file.
pub const FILE_BYTES: u64 = 16 << 20;

/// The kernel wants room for its largest request; the server announces writes of one page at most.
pub const REQUEST_BYTES: usize = 64 * 1024;

const ROOT_NODE: u64 = 1;
const FILE_NODE: u64 = 2;
/// How long, in seconds, the kernel may remember an answer: longer than any drill.
const REMEMBER_S: u64 = 3600;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Each read of the file becomes one request; the kernel caches no page of it.
const FOPEN_DIRECT_IO: u32 = 1;

/// `struct fuse_in_header`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct InHeader {
    len: u32,
    opcode: u32,
    unique: u64,
    nodeid: u64,
    uid: u32,
    gid: u32,
    pid: u32,
    extension: u32,
}

/// `struct fuse_read_in`.
#[derive(FromBytes, KnownLayout, Immutable)]
#[repr(C)]
struct ReadIn {
    fh: u64,
    offset: u64,
    size: u32,
    read_flags: u32,
    lock_owner: u64,
    flags: u32,
    padding: u32,
}

/// `struct fuse_out_header`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct OutHeader {
    len: u32,
    error: i32,
    unique: u64,
}

/// `struct fuse_attr`.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct Attr {
    ino: u64,
    size: u64,
    blocks: u64,
    times: [u64; 3],
    nanoseconds: [u32; 3],
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    rdev: u32,
    blksize: u32,
    flags: u32,
}

/// `struct fuse_entry_out`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct EntryOut {
    nodeid: u64,
    generation: u64,
    entry_valid: u64,
    attr_valid: u64,
    nanoseconds: [u32; 2],
    attr: Attr,
}

/// `struct fuse_attr_out`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct AttrOut {
    attr_valid: u64,
    nanoseconds: [u32; 2],
    attr: Attr,
}

/// `struct fuse_open_out`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct OpenOut {
    fh: u64,
    open_flags: u32,
    padding: u32,
}

/// `struct fuse_init_out` of protocol 7.23 and later.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct InitOut {
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u32,
    max_background: u16,
    congestion_threshold: u16,
    max_write: u32,
    time_gran: u32,
    max_pages: u16,
    map_alignment: u16,
    unused: [u32; 8],
}

/// What the server has to do about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: the kernel waits for no reply.
    Silence,
    /// Write these bytes now.
    Now(Vec<u8>),
    /// The content of the file was asked for: write these bytes when the delay is over.
    Slow(Vec<u8>),
}

/// Works out the answer to one request. A request that is cut short gets silence: the kernel never sends one.
pub fn answer(request: &[u8]) -> Answer {
    let Ok((header, body)) = InHeader::read_from_prefix(request) else { return Answer::Silence };
    let reply = |body: &[u8]| Answer::Now(message(header.unique, 0, body));
    match (header.opcode, header.nodeid) {
        (FORGET | BATCH_FORGET | INTERRUPT, _) => Answer::Silence,
        (INIT, _) => reply(init().as_bytes()),
        (LOOKUP, ROOT_NODE) => reply(entry().as_bytes()),
        (GETATTR, node) => reply(attributes(node).as_bytes()),
        (OPEN, FILE_NODE) => reply(OpenOut { fh: 0, open_flags: FOPEN_DIRECT_IO, padding: 0 }.as_bytes()),
        (READ, FILE_NODE) => match ReadIn::read_from_prefix(body) {
            Ok((read, _)) => Answer::Slow(message(header.unique, 0, &content(&read))),
            Err(_) => Answer::Silence,
        },
        (STATFS, _) => reply(&[0_u8; 80]),
        (RELEASE | FLUSH | FSYNC, _) => reply(&[]),
        _ => Answer::Now(message(header.unique, -libc::ENOSYS, &[])),
    }
}

fn init() -> InitOut {
    InitOut {
        major: 7,
        minor: 31,
        max_background: 64,
        congestion_threshold: 48,
        max_write: 4096,
        time_gran: 1,
        ..InitOut::default()
    }
}

fn entry() -> EntryOut {
    let attr = attr(FILE_NODE);
    EntryOut {
        nodeid: FILE_NODE,
        generation: 0,
        entry_valid: REMEMBER_S,
        attr_valid: REMEMBER_S,
        nanoseconds: [0; 2],
        attr,
    }
}

fn attributes(node: u64) -> AttrOut {
    AttrOut { attr_valid: REMEMBER_S, nanoseconds: [0; 2], attr: attr(node) }
}

fn attr(node: u64) -> Attr {
    let (mode, size) = if node == ROOT_NODE { (libc::S_IFDIR | 0o500, 0) } else { (libc::S_IFREG | 0o400, FILE_BYTES) };
    Attr { ino: node, size, blocks: size / 512, mode, nlink: 1, blksize: 4096, ..Attr::default() }
}

/// The bytes of the file: zeros, up to its end.
fn content(read: &ReadIn) -> Vec<u8> {
    let left = FILE_BYTES.saturating_sub(read.offset).min(u64::from(read.size));
    vec![0; usize::try_from(left).unwrap_or(0)]
}

fn message(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(size_of::<OutHeader>() + body.len()).unwrap_or(u32::MAX);
    let mut bytes = OutHeader { len, error, unique }.as_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// A FUSE file system that hangs on this descriptor alone.
#[derive(Debug)]
pub struct Mount(OwnedFd);

impl Mount {
    /// Mounts the file system that the holder of `device` (an open [`DEVICE`]) serves. Does not wait for the server.
    pub fn make(device: BorrowedFd<'_>) -> Result<Self, DrillError> {
        let wrong =
            |error: std::io::Error| DrillError::unavailable(format!("the kernel refuses a FUSE mount: {error}"));
        let fd = device.as_raw_fd().to_string();
        let context = fsopen(c"fuse").map_err(wrong)?;
        for (key, value) in [("fd", &*fd), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")] {
            configure(&context, libc::FSCONFIG_SET_STRING, Some((key, value))).map_err(wrong)?;
        }
        configure(&context, libc::FSCONFIG_CMD_CREATE, None).map_err(wrong)?;
        fsmount(&context).map(Self).map_err(wrong)
    }

    /// Opens the file; whatever name it is given, it is the same file. The server must run already, in another process.
    pub fn open(&self, name: &str) -> Result<File, DrillError> {
        let opened = openat(self.0.as_fd(), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
        opened.map(File::from).map_err(DrillError::system("open the slow file", name))
    }
}

fn fsopen(kind: &std::ffi::CStr) -> std::io::Result<OwnedFd> {
    #[expect(unsafe_code, reason = "neither std nor nix wraps fsopen")]
    // SAFETY: the name is a terminated string that outlives the call; the answer is a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
    owned(fd)
}

fn configure(context: &OwnedFd, command: libc::c_uint, pair: Option<(&str, &str)>) -> std::io::Result<()> {
    let terminated = |text: &str| std::ffi::CString::new(text).map_err(std::io::Error::from);
    let pair = pair.map(|(key, value)| Ok::<_, std::io::Error>((terminated(key)?, terminated(value)?))).transpose()?;
    let none = std::ptr::null::<libc::c_char>();
    let (key, value) = pair.as_ref().map_or((none, none), |(key, value)| (key.as_ptr(), value.as_ptr()));
    #[expect(unsafe_code, reason = "neither std nor nix wraps fsconfig")]
    // SAFETY: key and value are terminated strings that outlive the call, or null for the command that takes none.
    let answer = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn fsmount(context: &OwnedFd) -> std::io::Result<OwnedFd> {
    let attributes =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    #[expect(unsafe_code, reason = "neither std nor nix wraps fsmount")]
    // SAFETY: three integers; the answer is a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes) };
    owned(fd)
}

#[cfg(test)]
mod tests {
    use super::{Answer, FILE_BYTES, FILE_NODE, GETATTR, INIT, READ, ROOT_NODE, answer};

    fn request(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0_u8; 40];
        bytes[4..8].copy_from_slice(&opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&7_u64.to_ne_bytes());
        bytes[16..24].copy_from_slice(&node.to_ne_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn read(offset: u64, size: u32) -> Answer {
        let mut body = vec![0_u8; 40];
        body[8..16].copy_from_slice(&offset.to_ne_bytes());
        body[16..20].copy_from_slice(&size.to_ne_bytes());
        answer(&request(READ, FILE_NODE, &body))
    }

    fn length(answer: &Answer) -> usize {
        match answer {
            Answer::Silence => 0,
            Answer::Now(bytes) | Answer::Slow(bytes) => bytes.len(),
        }
    }

    #[test]
    fn replies_have_the_sizes_that_the_kernel_expects() {
        assert_eq!(length(&answer(&request(INIT, 0, &[0; 16]))), 16 + 64);
        assert_eq!(length(&answer(&request(super::LOOKUP, ROOT_NODE, b"x\0"))), 16 + 128);
        assert_eq!(length(&answer(&request(GETATTR, ROOT_NODE, &[0; 16]))), 16 + 104);
        assert_eq!(length(&answer(&request(super::OPEN, FILE_NODE, &[0; 8]))), 16 + 16);
        assert_eq!(length(&answer(&request(9999, ROOT_NODE, &[]))), 16);
    }

    #[test]
    fn only_reads_are_slow_and_they_end_with_the_file() {
        assert!(matches!(read(0, 4096), Answer::Slow(bytes) if bytes.len() == 16 + 4096));
        assert!(matches!(read(FILE_BYTES - 512, 4096), Answer::Slow(bytes) if bytes.len() == 16 + 512));
        assert!(matches!(read(FILE_BYTES + 1, 4096), Answer::Slow(bytes) if bytes.len() == 16));
    }

    #[test]
    fn what_wants_no_reply_and_what_is_cut_short_gets_none() {
        assert_eq!(answer(&request(super::FORGET, FILE_NODE, &[0; 8])), Answer::Silence);
        assert_eq!(answer(&[0; 39]), Answer::Silence);
    }
}
