//! Processes that cannot outlive the drill. In: a command; out: a child with a death signal, an own process group and a pidfd.
//!
//! A terminal's Ctrl-C goes to the whole foreground group; the drill alone shall get it and take its children down in order,
//! so each child has a group of its own. The death signal fires when the *thread* that started the child ends, not the
//! process: a drill starts all its children from the one thread that runs it and waits for them there.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid};

pub use crate::heal::pidfd::PidFd;

/// What becomes of a child when the thread that started it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnParentDeath {
    /// It gets this signal.
    Signal(Signal),
    /// It lives on, in a session of its own (only the janitor).
    Outlive,
}

/// Starts `command` with an empty signal mask, its own process group and the stated fate.
pub fn spawn(command: &mut Command, fate: OnParentDeath) -> io::Result<Child> {
    let parent = getpid();
    match fate {
        OnParentDeath::Signal(_) => {
            command.process_group(0);
        }
        // A group leader could not start a session, so the janitor gets no group here.
        OnParentDeath::Outlive => {}
    }
    #[expect(unsafe_code, reason = "std offers no death signal and no session other than by pre_exec")]
    // SAFETY: between fork and exec the closure makes only async-signal-safe system calls (prctl, getppid, setsid,
    // pthread_sigmask) and allocates nothing.
    unsafe {
        command.pre_exec(move || prepare(parent, fate));
    }
    command.spawn()
}

/// Runs in the child between fork and exec.
fn prepare(parent: Pid, fate: OnParentDeath) -> io::Result<()> {
    match fate {
        OnParentDeath::Signal(signal) => {
            prctl::set_pdeathsig(signal)?;
            // The parent may have died before the line above: then nobody would ever send the signal.
            if getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        OnParentDeath::Outlive => {
            nix::unistd::setsid()?;
        }
    }
    // The drill blocks SIGINT and SIGTERM for its signalfd; a mask survives exec, so it is cleared here.
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Sends a signal to exactly that process; a process that is gone is no error.
pub fn send(pidfd: &PidFd, signal: Signal) -> io::Result<()> {
    match pidfd.signal(signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// Takes the answer of a raw system call that returns a descriptor.
pub(super) fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(answer).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    #[expect(unsafe_code, reason = "a raw system call hands out a bare number")]
    // SAFETY: the kernel just returned this descriptor to this call; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
