//! `oom`. In: nothing. Out: an own child that is killed for memory in a throw-away cgroup, v1 or v2.

use std::{
    fs::{self, File},
    io::{self, Write},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use faultline::clock::monotonic_ns;
use nix::sys::{
    mman::{MapFlags, ProtFlags, mmap_anonymous},
    signal::Signal,
};
use serde_json::json;

use super::{Injector, child, crash::object};
use crate::truth::Expected;

/// What the child may have ...
const LIMIT: &str = "16777216";
/// ... and what it takes, at most.
const TAKE: usize = 128 << 20;

/// The cgroup.
#[derive(Debug)]
pub struct Oom {
    folder: PathBuf,
    /// As the agent names it.
    path: String,
}

impl Oom {
    /// Makes the cgroup.
    ///
    /// # Errors
    /// There is no memory controller, or it refuses.
    pub fn prepare() -> Result<Self> {
        let (mount, parent, limit, swap) = home()?;
        let path = format!("{}/faultline-case-{}", parent.trim_end_matches('/'), std::process::id());
        let folder = mount.join(path.trim_start_matches('/'));
        fs::create_dir(&folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        let cage = Self { folder, path };
        let write = |file: &str| fs::write(cage.folder.join(file), LIMIT);
        write(limit).with_context(|| format!("cannot write {limit} of {}", cage.folder.display()))?;
        // Only where swap is accounted.
        let _ = write(swap);
        Ok(cage)
    }
}

/// Mount, own path and limit files of the hierarchy with the memory controller.
fn home() -> Result<(PathBuf, String, &'static str, &'static str)> {
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let line = own.lines().find_map(|line| line.split_once(":memory:"));
    match line {
        Some((_, path)) if v1.join("memory.limit_in_bytes").exists() => {
            Ok((v1.into(), path.into(), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"))
        }
        _ => Ok(("/sys/fs/cgroup".into(), "/".into(), "memory.max", "memory.swap.max")),
    }
}

impl Injector for Oom {
    fn name(&self) -> &'static str {
        "oom"
    }

    fn sensor(&self) -> &'static str {
        "oom_kill"
    }

    fn inject(&mut self, missing: &[String]) -> Result<Expected> {
        let name = child::own_name("fl-oom");
        let open = |path: PathBuf| File::options().write(true).open(&path).with_context(|| path.display().to_string());
        let mut procs = open(self.folder.join("cgroup.procs"))?;
        let earliest_ns = monotonic_ns();
        let victim = child::dies(&name, Signal::SIGKILL, move || {
            // `0` is whoever writes. The child offers itself first, should the limit not hold.
            procs.write_all(b"0")?;
            File::options().write(true).open("/proc/self/oom_score_adj")?.write_all(b"1000")?;
            take_memory()
        })?;
        let told = |field: &str| !missing.iter().any(|m| m == field);
        let comm = if told("victim_comm") { json!(name) } else { json!(null) };
        let (kind, entity) = match (told("cgroup_id"), told("victim_comm")) {
            (true, _) => ("cgroup", self.path.clone()),
            (false, true) => ("executable", name.clone()),
            (false, false) => ("process", victim.to_string()),
        };
        let victim = victim.as_raw();
        let mut evidence = object(json!({ "victim_pid": victim, "trigger_pid": victim, "trigger_comm": name }));
        if told("victim_comm") {
            evidence.insert("victim_comm".into(), comm.clone());
        }
        let event =
            json!({ "sensor": "oom_kill", "pid": victim, "comm": name, "victim_pid": victim, "victim_comm": comm });
        Ok(Expected {
            kind: "oom_kill".into(),
            entity_kind: kind.into(),
            entity_name: entity,
            earliest_ns,
            latest_ns: monotonic_ns(),
            evidence,
            event: object(event),
        })
    }
}

/// Maps [`TAKE`] bytes and writes to every page.
fn take_memory() -> io::Result<()> {
    let length = NonZeroUsize::new(TAKE).ok_or(io::ErrorKind::InvalidInput)?;
    let (rights, kind) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    #[expect(unsafe_code, reason = "a Vec must not be used between fork and exec")]
    // SAFETY: a new private mapping of TAKE bytes that nothing else uses; every write is inside it.
    unsafe {
        let start = mmap_anonymous(None, length, rights, kind)?;
        for offset in (0..TAKE).step_by(4096) {
            start.cast::<u8>().as_ptr().add(offset).write_volatile(1);
        }
    }
    Ok(())
}

impl Drop for Oom {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
