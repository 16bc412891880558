//! Descriptors of processes. In: a pid; out: something that can only ever mean that one process. Signals go through it
//! and through nothing else, since a number may have become somebody else between two lines of code.
#![expect(unsafe_code, reason = "neither std (stable) nor nix wraps pidfd_open(2) and pidfd_send_signal(2)")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// A process, whatever becomes of its number. Readable when it has ended (Linux 5.3).
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// pidfd_open(2).
    ///
    /// # Errors
    /// ESRCH: there is no such process; EINVAL: the number is a thread's.
    pub fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // SAFETY: two integers in, a new descriptor or -1 out.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match i32::try_from(fd) {
            // SAFETY: the kernel made this descriptor for this call; nobody else owns it. It is close-on-exec by itself.
            Ok(fd) if fd >= 0 => Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// pidfd_send_signal(2): one system call, no allocation.
    ///
    /// # Errors
    /// ESRCH: it has ended; EPERM: not ours to signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.send(signal as libc::c_int)
    }

    /// Whether it has not been waited for: the signal 0 finds it. A permission that is missing is a presence.
    pub fn is_there(&self) -> bool {
        self.send(0).map_or_else(|error| error.raw_os_error() == Some(libc::EPERM), |()| true)
    }

    fn send(&self, signal: libc::c_int) -> io::Result<()> {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open while `self` lives; a null siginfo means "as kill(2)".
        let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, none, 0) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until the process has ended, at most `timeout_ms`; whether it has.
    pub fn wait_ms(&self, timeout_ms: u16) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(timeout_ms)).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
