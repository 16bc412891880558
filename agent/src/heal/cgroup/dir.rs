//! An opened cgroup directory. In: a path, once; out: its files and the processes below it, always through the descriptor.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};

use crate::heal::error::HandError;

/// A cgroup directory (O_PATH). Once the cgroup is removed, every access through it is refused by the kernel.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    id: u64,
    /// For messages only.
    path: PathBuf,
}

impl Dir {
    /// Opens the directory that has this path now. [`Self::id`] says which cgroup that was.
    ///
    /// # Errors
    /// [`HandError::Gone`] when there is none.
    pub fn open(path: &Path) -> Result<Self, HandError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Self::of(open(path, flags, Mode::empty()), path.to_owned())
    }

    /// Opens a directory in this one.
    fn child(&self, name: &Path) -> Result<Self, HandError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Self::of(openat(&self.fd, name, flags, Mode::empty()), self.path.join(name))
    }

    fn of(fd: nix::Result<OwnedFd>, path: PathBuf) -> Result<Self, HandError> {
        let name = path.display();
        let fd = fd.map_err(io::Error::from).map_err(HandError::of("open the cgroup", name))?;
        let name = path.display();
        let stat = fstat(&fd).map_err(io::Error::from).map_err(HandError::of("look at the cgroup", name))?;
        Ok(Self { fd, id: stat.st_ino, path })
    }

    /// kernfs node id: the inode number of the directory.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The path it had when opened.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Opens one of its files.
    ///
    /// # Errors
    /// [`HandError::Gone`] when the cgroup was removed, [`HandError::Unsupported`] when it lives but has no such file.
    pub fn file(&self, name: &'static str, flags: OFlag) -> Result<File, HandError> {
        match openat(&self.fd, name, flags | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::ENOENT) if self.is_alive() => {
                let why = format!("this kernel or hierarchy has no {name} there");
                Err(HandError::Unsupported { operation: "use", what: self.name(), why })
            }
            Err(errno) => Err(HandError::of("open", format!("{}/{name}", self.name()))(errno.into())),
        }
    }

    /// Whether the cgroup is still there. Every cgroup of either version has this file.
    pub fn is_alive(&self) -> bool {
        openat(&self.fd, "cgroup.procs", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).is_ok()
    }

    /// Content of one of its files.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn read(&self, name: &'static str) -> Result<String, HandError> {
        let mut text = String::new();
        let mut file = self.file(name, OFlag::O_RDONLY)?;
        file.read_to_string(&mut text).map_err(HandError::of("read", format!("{}/{name}", self.name())))?;
        Ok(text)
    }

    /// Writes one of its files in one write(2).
    ///
    /// # Errors
    /// As [`Self::file`], and what the kernel thinks of the value.
    pub fn write(&self, name: &'static str, text: &str) -> Result<(), HandError> {
        let mut file = self.file(name, OFlag::O_WRONLY)?;
        let what = || format!("{}/{name}", self.name());
        file.write_all(text.as_bytes()).map_err(|cause| HandError::of("write", what())(cause))
    }

    /// Visits this cgroup and every one below it. One that vanishes meanwhile is simply gone.
    ///
    /// # Errors
    /// The first of `visit` that is not [`HandError::Gone`] of a descendant.
    pub fn visit(&self, visit: &mut dyn FnMut(&Self) -> Result<(), HandError>) -> Result<(), HandError> {
        visit(self)?;
        for name in self.children()? {
            match self.child(&name).and_then(|child| child.visit(visit)) {
                Ok(()) | Err(HandError::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Names of the cgroups directly below. /proc/self/fd leads to this very directory, whoever has its path by now.
    fn children(&self) -> Result<Vec<PathBuf>, HandError> {
        let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let failed = || HandError::of("list the cgroup", self.name());
        let entries = std::fs::read_dir(own).map_err(|cause| failed()(cause))?;
        let is_dir = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        Ok(entries.flatten().filter(is_dir).map(|entry| entry.file_name().into()).collect())
    }

    /// Every process in it and below.
    ///
    /// # Errors
    /// [`HandError::Gone`]; [`HandError::Unsupported`] when there is a process of another pid namespace, which has no
    /// number here and therefore could only be skipped.
    pub fn processes_below(&self) -> Result<BTreeSet<u32>, HandError> {
        let mut all = BTreeSet::new();
        self.visit(&mut |dir| {
            all.extend(dir.processes()?);
            Ok(())
        })?;
        Ok(all)
    }

    /// The processes directly in it; of a threaded cgroup its threads, whose ids /proc knows as well.
    fn processes(&self) -> Result<Vec<u32>, HandError> {
        let text = match self.read("cgroup.procs") {
            Err(HandError::Unsupported { .. }) => self.read("cgroup.threads")?,
            other => other?,
        };
        let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if pids.contains(&0) {
            let why = "it holds processes of a pid namespace that cannot be seen from here".into();
            return Err(HandError::Unsupported { operation: "list", what: self.name(), why });
        }
        Ok(pids)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
