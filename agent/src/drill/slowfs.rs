//! The server of the slow file. In: FUSE requests on standard input; out: replies, those with content late once it is armed.
//!
//! It is a process of its own, because the loop driver's reads wait for it: a server that touched the loop device, or shared a
//! process with somebody who does, would wait for itself. It has one thread that never waits for anything but `poll`; late
//! replies stand in a queue. When it dies the kernel fails all that waits, so nothing can hang.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use super::DrillError;
use super::child::{OnParentDeath, spawn};
use super::fuse::{Answer, DEVICE, REQUEST_BYTES, answer};
use super::helper::{command, take_name};
use super::stage::{is_readable, poll_readable};
use crate::clock::monotonic_ns;

/// Helper that serves the slow file.
pub const ROLE: &str = "disk-backing";

/// How late the content comes once armed: well above the 40 ms from which an I/O counts as an outlier.
const DELAY_NS: u64 = 120_000_000;

/// The server as the process sees it that mounts the file.
pub struct SlowFs {
    child: Child,
    control: Option<UnixStream>,
}

impl SlowFs {
    /// Hands an open [`DEVICE`] to a new server process. Content is fast until [`SlowFs::arm`].
    pub fn start(device: File) -> Result<Self, DrillError> {
        let (control, far) = UnixStream::pair().map_err(DrillError::system("make", "a socket pair"))?;
        let mut command = command(ROLE, &[]);
        command.stdin(Stdio::from(device)).stdout(Stdio::from(std::os::fd::OwnedFd::from(far)));
        let child = spawn(&mut command, OnParentDeath::Signal(Signal::SIGKILL));
        let child = child.map_err(DrillError::system("start the helper", ROLE))?;
        Ok(Self { child, control: Some(control) })
    }

    /// From now on content comes late.
    pub fn arm(&mut self) -> Result<(), DrillError> {
        let sent = match &mut self.control {
            Some(control) => control.write_all(b"a").and_then(|()| control.read_exact(&mut [0])),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(DrillError::system("arm", "the slow file system"))
    }
}

impl Drop for SlowFs {
    fn drop(&mut self) {
        self.control = None;
        let _ = self.child.wait();
    }
}

/// Child side: serves until the file system or its parent is gone.
pub fn help() -> Result<(), DrillError> {
    take_name("fl-drill-slowfs")?;
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(DrillError::system("take over", DEVICE));
    let device = File::from(own(io::stdin().as_fd())?);
    let control = File::from(own(io::stdout().as_fd())?);
    Server { device, control, delay_ns: 0, late: VecDeque::new() }.serve()
}

/// A reply that waits for its time.
struct Late {
    due_ns: u64,
    message: Vec<u8>,
}

struct Server {
    device: File,
    control: File,
    delay_ns: u64,
    /// In the order of their times: the delay only ever grows.
    late: VecDeque<Late>,
}

impl Server {
    fn serve(mut self) -> Result<(), DrillError> {
        let mut request = vec![0_u8; REQUEST_BYTES];
        loop {
            let now = monotonic_ns();
            let next = self.late.front().map_or(u64::MAX, |late| late.due_ns.saturating_sub(now));
            poll_readable(&[self.device.as_fd(), self.control.as_fd()], next)?;
            self.send_due()?;
            if is_readable(self.control.as_fd())? && !self.obey()? {
                return Ok(());
            }
            if is_readable(self.device.as_fd())? && !self.take_request(&mut request)? {
                return Ok(());
            }
        }
    }

    /// One order; false when the parent is gone.
    fn obey(&mut self) -> Result<bool, DrillError> {
        let wrong = DrillError::system("talk to", "the process that mounts the slow file");
        let count = self.control.read(&mut [0]).map_err(wrong)?;
        if count > 0 {
            self.delay_ns = DELAY_NS;
            let _ = self.control.write_all(b"a");
        }
        Ok(count > 0)
    }

    /// One request; false when the file system is gone.
    fn take_request(&mut self, room: &mut [u8]) -> Result<bool, DrillError> {
        let count = match self.device.read(room) {
            Ok(count) => count,
            Err(error) => return after_read_error(error),
        };
        match answer(&room[..count]) {
            Answer::Silence => Ok(true),
            Answer::Slow(message) if self.delay_ns > 0 => {
                self.late.push_back(Late { due_ns: monotonic_ns() + self.delay_ns, message });
                Ok(true)
            }
            Answer::Now(message) | Answer::Slow(message) => self.send(&message).map(|()| true),
        }
    }

    fn send_due(&mut self) -> Result<(), DrillError> {
        let now = monotonic_ns();
        while self.late.front().is_some_and(|late| late.due_ns <= now) {
            if let Some(late) = self.late.pop_front() {
                self.send(&late.message)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Result<(), DrillError> {
        match self.device.write(message) {
            Ok(_) => Ok(()),
            // The requester was killed meanwhile and waits no longer, or the file system is gone: nobody misses the reply.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPERM | libc::ENODEV)) => Ok(()),
            Err(error) => Err(DrillError::system("reply on", DEVICE)(error)),
        }
    }
}

fn after_read_error(error: io::Error) -> Result<bool, DrillError> {
    match error.raw_os_error() {
        Some(libc::ENODEV) => Ok(false),
        // ENOENT: the request was withdrawn while it was read.
        Some(libc::EINTR | libc::EAGAIN | libc::ENOENT) => Ok(true),
        _ => Err(DrillError::system("read requests from", DEVICE)(error)),
    }
}
