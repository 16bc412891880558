//! A patient: a service's cgroup in the v2 tree with a process that rests in it, for what hands do to it. In: names.
//! Out: crashes on demand; everything goes when it is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context, Result};
use faultline::kernel::{Root, cgroup::CgroupLayout};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A cgroup of an own name below the root of the v2 tree, for patients. By its name a slice: services lie in slices only.
#[derive(Debug)]
pub struct Ward(PathBuf);

impl Ward {
    /// Makes it.
    ///
    /// # Errors
    /// There is no v2 tree, or it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let v2 = CgroupLayout::gather(&Root::live())?.v2.context("no cgroup v2 hierarchy is mounted")?;
        let path = v2.join(format!("fl-{name}-{}.slice", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self(path))
    }

    /// As a policy names it.
    pub fn scope(&self) -> String {
        format!("/{}", self.0.file_name().unwrap_or_default().to_string_lossy())
    }

    /// One patient in it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn patient(&self, unit: &str) -> Result<Patient> {
        let folder = self.0.join(unit);
        fs::create_dir(&folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        let resting = Command::new("sleep").arg("1000").spawn().context("cannot start sleep")?;
        let patient = Patient { folder, resting };
        fs::write(patient.folder.join("cgroup.procs"), patient.resting.id().to_string())?;
        Ok(patient)
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The cgroup of a service, and its process.
#[derive(Debug)]
pub struct Patient {
    folder: PathBuf,
    resting: Child,
}

impl Patient {
    /// Its directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A process of the service crashes: a child whose parent is outside of it.
    ///
    /// # Errors
    /// It cannot be started or signalled.
    pub fn crash(&self) -> Result<()> {
        let mut child = Command::new("sleep").arg("1000").spawn().context("cannot start sleep")?;
        fs::write(self.folder.join("cgroup.procs"), child.id().to_string())?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGSEGV)?;
        child.wait().map(drop).context("cannot wait for the child")
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        fs::read_to_string(self.folder.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// Whether its process lives.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.resting.try_wait(), Ok(None))
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.freeze"), "0");
        let _ = self.resting.kill();
        let _ = self.resting.wait();
        let _ = fs::remove_dir(&self.folder);
    }
}
