//! A child with less than this process has. In: a command. Out: the same command, bound to run without some
//! capabilities, on one CPU, or in a mount namespace of its own.
//!
//! What a child loses it loses between fork and exec, so the test itself keeps everything.
#![expect(unsafe_code, reason = "pre_exec, and prctl(PR_CAPBSET_DROP), which has no safe wrapper")]

use std::{os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    unistd::Pid,
};

/// CAP_SYS_ADMIN of capabilities(7), which before 5.8 stood for the next two as well.
pub const SYS_ADMIN: libc::c_ulong = 21;
/// CAP_PERFMON of capabilities(7).
pub const PERFMON: libc::c_ulong = 38;
/// CAP_BPF of capabilities(7).
pub const BPF: libc::c_ulong = 39;

/// Root without these capabilities: what is not in the bounding set is lost at exec.
pub fn without_capabilities(command: &mut Command, capabilities: &'static [libc::c_ulong]) {
    let drop_all = move || {
        for capability in capabilities {
            // SAFETY: a system call on the own process, without pointers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls, which is allowed between fork and exec.
    unsafe { command.pre_exec(drop_all) };
}

/// Only this CPU.
pub fn on_cpu(command: &mut Command, cpu: usize) {
    let pin = move || {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(pin) };
}

/// Moves the calling thread into a mount namespace of its own, in which nothing reaches the machine.
/// Children that it starts live there, too; the namespace ends with the last of them.
///
/// # Errors
/// The kernel refuses (it needs root).
pub fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).context("cannot make a mount namespace")?;
    let recursive = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, recursive, None::<&str>).context("cannot make the mounts private")
}

/// Covers a folder with an empty file system of this size; for use after [`own_mounts`].
///
/// # Errors
/// The folder is not there, or the kernel refuses.
pub fn cover(folder: &Path, bytes: usize) -> Result<()> {
    let options = format!("size={bytes}");
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot cover {}", folder.display()))
}

/// Takes away whatever is mounted on a folder; for use after [`own_mounts`].
pub fn uncover(folder: &Path) {
    // Several may lie over each other; the last refusal says that there is none any more.
    while umount2(folder, MntFlags::MNT_DETACH).is_ok() {}
}

/// Runs something on a thread of its own, so that what it unshares ends with it.
///
/// # Errors
/// What `work` says, or its panic.
pub fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = std::thread::spawn(work).join();
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
