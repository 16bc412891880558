//! A kernel thread in a cgroup, and what becomes of it. In: nothing. Out: the hands refuse; by hand it is shown what they
//! would have done.
//!
//! For a VM of its own: it touches a thread of the kernel. The v2 freezer leaves these alone, the v1 freezer does not, so
//! that one is mounted beside.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use faultline::{
    heal::{
        Protection,
        cgroup::{Target, prepare},
    },
    kernel::{Root, cgroup::CgroupLayout},
    model::{
        action::{Limit, Reason, Verb},
        entity::Tree,
    },
};
use nix::mount::{MsFlags, mount, umount};

use super::mttr::probe;
use crate::case::step;

/// The thread that reclaims memory when little is left: every kernel has it, and it can be frozen.
const THREAD: &str = "kswapd0";

/// Mounted, with a cgroup of one name in both trees; all of it goes when this is dropped.
struct Trees {
    freezer: PathBuf,
    cgroups: [PathBuf; 2],
    thread: String,
}

impl Trees {
    fn new() -> Result<Self> {
        let thread = fs::read_dir("/proc")?.flatten().map(|entry| entry.path()).find(|path| is_thread(path));
        let thread = thread.and_then(|path| Some(path.file_name()?.to_str()?.to_owned())).context(THREAD)?;
        let freezer = std::env::temp_dir().join("fl-freezer");
        fs::create_dir_all(&freezer)?;
        mount(Some("none"), &freezer, Some("cgroup"), MsFlags::empty(), Some("freezer")).context("the v1 freezer")?;
        let cgroups = [Path::new("/sys/fs/cgroup"), &freezer].map(|root| root.join("fl-kernel"));
        let trees = Self { freezer, cgroups, thread };
        for cgroup in &trees.cgroups {
            fs::create_dir(cgroup).with_context(|| cgroup.display().to_string())?;
            fs::write(cgroup.join("cgroup.procs"), &trees.thread).context("the thread cannot be moved")?;
        }
        Ok(trees)
    }

    fn freeze(&self, state: &str) -> Result<()> {
        fs::write(self.cgroups[1].join("freezer.state"), state).context("freezer.state")
    }

    /// Whether the thread stands in the kernel's refrigerator, where it waits for nothing but a thaw.
    fn is_frozen(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stack", self.thread)).is_ok_and(|stack| stack.contains("refrigerator"))
    }
}

fn is_thread(proc: &Path) -> bool {
    fs::read_to_string(proc.join("comm")).is_ok_and(|comm| comm.trim() == THREAD)
}

impl Drop for Trees {
    fn drop(&mut self) {
        let _ = self.freeze("THAWED");
        for cgroup in &self.cgroups {
            if let Some(root) = cgroup.parent() {
                let _ = fs::write(root.join("cgroup.procs"), &self.thread);
            }
            let _ = fs::remove_dir(cgroup);
        }
        let _ = umount(&self.freezer);
    }
}

/// The kernel's reclaim is not frozen, whoever asks for it.
pub(super) fn kernel_thread(start: u64) -> Result<()> {
    let trees = Trees::new()?;
    let layout = CgroupLayout::gather(&Root::live())?;
    let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&trees.cgroups[0])?);
    let limit = Limit { memory_percent: None, cpu_permille: Some(500) };
    for verb in [Verb::FreezeCgroup, Verb::LimitCgroup, Verb::Kill] {
        let target = Target::open(&layout, Tree::Process, "/fl-kernel", id)?;
        // Not even PID 1 is on this list.
        let refused = prepare(&layout, &Protection::of([]), verb, limit, target).err();
        let error = refused.with_context(|| format!("{} of a kernel thread is not refused", verb.name()))?;
        ensure!(error.reason() == Reason::Protected && error.to_string().contains("kernel thread"), "{error}");
    }
    ensure!(!trees.is_frozen(), "it was frozen before");
    // What the hands would have written without that question.
    trees.freeze("FROZEN")?;
    probe("the harm", || trees.is_frozen().then_some(()))?;
    trees.freeze("THAWED")?;
    probe("its end", || (!trees.is_frozen()).then_some(()))?;
    step(start, "a cgroup with a kernel thread in it is refused; by hand, the kernel's reclaim stood still");
    Ok(())
}
