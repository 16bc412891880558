//! A patient: a service's cgroup in the v2 tree with a process that rests in it, for what hands do to it. In: names.
//! Out: crashes on demand; everything goes when it is dropped.
//!
//! One that can be limited has a cgroup of the same path, with the same process, wherever this machine has its `memory`
//! and `cpu` controllers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result};
use faultline::kernel::{Root, cgroup::CgroupLayout};
use nix::{
    poll::{PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The controllers that limit.
const CONTROLLERS: [&str; 2] = ["memory", "cpu"];
/// How often a cgroup is tried to be removed: its last process may take a moment to leave.
const REMOVALS: usize = 500;
const REMOVAL_PAUSE: Duration = Duration::from_millis(2);

/// A cgroup of an own name below the root of the v2 tree, for patients; beside it those for limits. By its name a slice:
/// services lie in slices only.
#[derive(Debug)]
pub struct Ward {
    /// The v2 one first.
    folders: Vec<PathBuf>,
}

impl Ward {
    /// Makes it.
    ///
    /// # Errors
    /// There is no v2 tree, or it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let mut ward = Self { folders: Vec::new() };
        ward.make(&v2_root(&CgroupLayout::gather(&Root::live())?)?, name)?;
        Ok(ward)
    }

    /// One whose patients can be limited.
    ///
    /// # Errors
    /// As [`Self::new`]; a controller is mounted nowhere, or the v2 root does not hand it down.
    pub fn with_limits(name: &str) -> Result<Self> {
        let layout = CgroupLayout::gather(&Root::live())?;
        let v2 = v2_root(&layout)?;
        let mut ward = Self::new(name)?;
        for controller in CONTROLLERS {
            let tree = layout.hierarchy_of(controller).with_context(|| format!("no {controller} controller"))?;
            if tree.root == v2 {
                let file = ward.folders[0].join("cgroup.subtree_control");
                fs::write(&file, format!("+{controller}")).with_context(|| format!("cannot enable {controller}"))?;
            } else if !ward.folders.iter().any(|folder| folder.starts_with(&tree.root)) {
                ward.make(&tree.root, name)?;
            }
        }
        Ok(ward)
    }

    fn make(&mut self, root: &Path, name: &str) -> Result<()> {
        let path = root.join(format!("fl-{name}-{}.slice", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        self.folders.push(path);
        Ok(())
    }

    /// As a policy names it.
    pub fn scope(&self) -> String {
        let name = self.folders.first().and_then(|folder| folder.file_name()).unwrap_or_default();
        format!("/{}", name.to_string_lossy())
    }

    /// One patient in it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn patient(&self, unit: &str) -> Result<Patient> {
        let resting = Command::new("sleep").arg("1000").spawn().context("cannot start sleep")?;
        let mut patient = Patient { folders: Vec::new(), resting };
        for ward in &self.folders {
            let folder = ward.join(unit);
            fs::create_dir(&folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
            patient.folders.push(folder);
        }
        patient.admit(patient.resting.id())?;
        Ok(patient)
    }
}

fn v2_root(layout: &CgroupLayout) -> Result<PathBuf> {
    layout.v2.clone().context("no cgroup v2 hierarchy is mounted")
}

impl Drop for Ward {
    fn drop(&mut self) {
        self.folders.iter().for_each(|folder| remove(folder));
    }
}

/// The cgroup of a service, and its process.
#[derive(Debug)]
pub struct Patient {
    /// The v2 one first.
    folders: Vec<PathBuf>,
    resting: Child,
}

impl Patient {
    /// Its directory in the v2 tree.
    pub fn folder(&self) -> &Path {
        self.folders.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// A process of the service crashes: a child whose parent is outside of it.
    ///
    /// # Errors
    /// It cannot be started or signalled.
    pub fn crash(&self) -> Result<()> {
        self.strike()?.wait().map(drop).context("cannot wait for the child")
    }

    /// A process of the service has just been sent the signal of its crash; it is still to be waited for.
    ///
    /// # Errors
    /// As [`Self::crash`].
    pub fn strike(&self) -> Result<Child> {
        let child = Command::new("sleep").arg("1000").spawn().context("cannot start sleep")?;
        self.admit(child.id())?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGSEGV)?;
        Ok(child)
    }

    fn admit(&self, pid: u32) -> Result<()> {
        for folder in &self.folders {
            let procs = folder.join("cgroup.procs");
            fs::write(&procs, pid.to_string()).with_context(|| format!("cannot move {pid} to {}", procs.display()))?;
        }
        Ok(())
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        fs::read_to_string(self.folder().join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
    }

    /// What can be frozen and limited of it: the files that a hand would change and that it has, each with its value.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let knobs = ["cgroup.freeze", "memory.high", "memory.limit_in_bytes", "cpu.max", "cpu.cfs_quota_us"];
        let read = |knob: &str| self.folders.iter().find_map(|folder| fs::read_to_string(folder.join(knob)).ok());
        knobs.into_iter().filter_map(|knob| Some((knob, read(knob)?.trim().to_owned()))).collect()
    }

    /// Whether its process lives.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.resting.try_wait(), Ok(None))
    }
}

impl Drop for Patient {
    fn drop(&mut self) {
        let _ = fs::write(self.folder().join("cgroup.freeze"), "0");
        let _ = self.resting.kill();
        let _ = self.resting.wait();
        self.folders.iter().for_each(|folder| remove(folder));
    }
}

/// A patient in a ward of its own.
#[derive(Debug)]
pub struct Alone {
    patient: Patient,
    ward: Ward,
}

impl Alone {
    /// Makes both.
    ///
    /// # Errors
    /// As [`Ward::new`].
    pub fn new(name: &str) -> Result<Self> {
        Self::inside(Ward::new(name)?)
    }

    /// One that can be limited.
    ///
    /// # Errors
    /// As [`Ward::with_limits`].
    pub fn with_limits(name: &str) -> Result<Self> {
        Self::inside(Ward::with_limits(name)?)
    }

    fn inside(ward: Ward) -> Result<Self> {
        Ok(Self { patient: ward.patient("patient.service")?, ward })
    }

    /// As a list in a policy holds it.
    pub fn scope(&self) -> String {
        format!("\"{}\"", self.ward.scope())
    }
}

impl std::ops::Deref for Alone {
    type Target = Patient;

    fn deref(&self) -> &Patient {
        &self.patient
    }
}

impl std::ops::DerefMut for Alone {
    fn deref_mut(&mut self) -> &mut Patient {
        &mut self.patient
    }
}

fn remove(folder: &Path) {
    for _ in 0..REMOVALS {
        if fs::remove_dir(folder).is_ok() || !folder.exists() {
            return;
        }
        let _ = poll(&mut [], PollTimeout::try_from(REMOVAL_PAUSE).unwrap_or(PollTimeout::ZERO));
    }
}
