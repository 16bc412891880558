//! Emptying a cgroup. In: an opened cgroup; out: nobody left in it or below it, or an error that says how many.
//!
//! `cgroup.kill` (5.14) is atomic against fork. Without it: list, open a pidfd of each, list again, and signal who is in
//! both: a number that went to a stranger meanwhile is either not in the second list or its pidfd is of the dead one.
//! Repeated until the list is empty, since a fork may slip through. A task frozen by the v1 freezer does not die of
//! SIGKILL until it is thawed, so there kill means kill and thaw, in that order: it never runs again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::dir::Dir;
use super::knob::Knob;
use super::place::Target;
use crate::heal::pidfd::PidFd;
use crate::heal::{HandError, Protection};
use crate::{clock, kernel::CgroupLayout};

/// Descriptors open at the same time; below the usual limit of 1024.
const BATCH: usize = 256;
/// Longest wait before the list is read again, ms.
const LOOK_AGAIN_MS: u16 = 10;

/// How one cgroup will be emptied.
#[derive(Debug)]
pub(super) struct Kill {
    /// `cgroup.kill`, where there is one.
    file: Option<File>,
    /// The v1 freezer cgroup of the same processes.
    freezer: Option<Dir>,
    protection: Protection,
}

impl Kill {
    /// Looks for what the kernel offers. A v1 freezer cgroup that also holds strangers is left alone.
    pub(super) fn prepare(layout: &CgroupLayout, protection: &Protection, target: &Target) -> Self {
        let file = target.dir.file("cgroup.kill", OFlag::O_WRONLY).ok();
        Self { file, ..Self::by_processes(layout, protection, target) }
    }

    /// As on a kernel without `cgroup.kill`.
    pub(super) fn by_processes(layout: &CgroupLayout, protection: &Protection, target: &Target) -> Self {
        let freezer = layout.hierarchy_of("freezer").and_then(|freezer| target.twin(&freezer).ok());
        Self { file: None, freezer: freezer.map(|twin| twin.dir), protection: protection.clone() }
    }

    /// Kills until nobody is left or `deadline_ns` (CLOCK_MONOTONIC) has passed.
    pub(super) fn run(&self, dir: &Dir, deadline_ns: u64) -> Result<(), HandError> {
        if let Some(mut file) = self.file.as_ref() {
            file.write_all(b"1").map_err(HandError::of("write cgroup.kill of", dir.name()))?;
        }
        loop {
            let left = members(dir)?;
            let dying = if self.file.is_none() { self.signal_all(dir, &left)? } else { Vec::new() };
            self.thaw()?;
            if left.is_empty() {
                return Ok(());
            }
            if clock::monotonic_ns() >= deadline_ns {
                let left = format!("{} processes left", left.len());
                return Err(HandError::TimedOut { operation: "kill", what: dir.name(), left });
            }
            wait_for_death(dir, &dying);
        }
    }

    fn signal_all(&self, dir: &Dir, pids: &[u32]) -> Result<Vec<PidFd>, HandError> {
        let mut dying = Vec::new();
        for batch in pids.chunks(BATCH) {
            dying = batch.iter().filter_map(|pid| self.open(*pid).transpose()).collect::<Result<Vec<_>, _>>()?;
            let still = members(dir)?;
            dying.retain(|(pid, _)| still.contains(pid));
            for (pid, fd) in &dying {
                kill(*pid, fd)?;
            }
        }
        Ok(dying.into_iter().map(|(_, fd)| fd).collect())
    }

    /// `None`: it ended by itself.
    fn open(&self, pid: u32) -> Result<Option<(u32, PidFd)>, HandError> {
        self.protection.judge(pid)?;
        match PidFd::open(pid) {
            Ok(fd) => Ok(Some((pid, fd))),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(HandError::of("open a pidfd of pid", pid)(error)),
        }
    }

    fn thaw(&self) -> Result<(), HandError> {
        let Some(freezer) = &self.freezer else { return Ok(()) };
        match Knob::FreezerState.read(freezer).and_then(|flag| match flag.as_str() {
            "0" => Ok(()),
            _ => Knob::FreezerState.write(freezer, "0"),
        }) {
            Err(HandError::Gone { .. }) => Ok(()),
            other => other,
        }
    }
}

fn kill(pid: u32, fd: &PidFd) -> Result<(), HandError> {
    match fd.signal(Signal::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(HandError::of("kill pid", pid)(error)),
        _ => Ok(()),
    }
}

/// A removed cgroup has no members.
fn members(dir: &Dir) -> Result<Vec<u32>, HandError> {
    match dir.processes_below() {
        Ok(pids) => Ok(pids.into_iter().collect()),
        Err(HandError::Gone { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Until one of them is dead, or v2 tells that the cgroup changed, or it is time to look again.
fn wait_for_death(dir: &Dir, dying: &[PidFd]) {
    let events = watch(dir).ok();
    let mut fds: Vec<PollFd<'_>> = dying.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    fds.extend(events.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)));
    // An interrupted wait is a short one.
    let _ = poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS));
}

/// `cgroup.events`, read once, so that the next change of it raises POLLPRI (kernfs_fop_poll).
pub(super) fn watch(dir: &Dir) -> Result<File, HandError> {
    let file = dir.file("cgroup.events", OFlag::O_RDONLY)?;
    io::copy(&mut &file, &mut io::sink()).map_err(HandError::of("read cgroup.events of", dir.name()))?;
    Ok(file)
}
