//! The drill `oom`. In: nothing; out: an own child that is OOM-killed in a throw-away memory cgroup with a limit of 32 MB.
//!
//! The child can harm nobody else: the limit is on its cgroup alone, it takes 256 MB at most should the limit not hold, and it
//! offers itself first to the OOM killer of the whole machine.

use std::path::Path;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::cgroup::{Home, Version, remove};
use super::helper::{Helper, Word, hear, say, take_name};
use super::stage::Stage;
use super::verdict::Expected;
use super::{DrillError, PREFIX, Performance};
use crate::clock::monotonic_ns;

/// Helper that takes too much memory.
pub const ROLE: &str = "oom";

const NAME: &str = "fl-drill-oom";
const LIMIT_BYTES: usize = 32 << 20;
const TAKE_BYTES: usize = 256 << 20;

/// The drill `oom`.
pub fn perform(stage: &mut Stage) -> Result<Performance, DrillError> {
    let name = format!("{PREFIX}{}", std::process::id());
    let home = Home::find()?;
    let cage = Cage::make(stage, home, &name)?;
    let mut helper = Helper::start(ROLE, &[])?;
    stage.ready(&mut helper)?;
    let pid = helper.pid().as_raw();
    write(&cage.path.join("cgroup.procs"), &pid.to_string())?;
    let mut left = if stage.heals { Some(leave_behind(stage, &cage)?) } else { None };
    helper.order("go")?;
    let injected_ns = stage.injected(&mut helper)?;
    let expected = Expected { kind: "oom_kill", entity_kind: "cgroup", entity_name: name, victim_pid: Some(pid) };
    let status = stage.ended(&mut helper)?;
    if std::os::unix::process::ExitStatusExt::signal(&status) != Some(libc::SIGKILL) {
        let message = format!("it took {} MB without being killed ({status})", TAKE_BYTES >> 20);
        return Err(DrillError::Helper { role: ROLE, message });
    }
    // The cgroup stays until the fault was reported, so that the agent can still find its name.
    stage.wait_for_fault(&expected)?;
    let mut healing = None;
    if let Some(left) = &mut left {
        healing = Some(stage.wait_for_recovery(&expected)?);
        if healing.flatten().is_some() {
            stage.ended(left)?;
        }
    }
    cage.dismantle()?;
    stage.janitor.tell_all_is_gone()?;
    Ok(Performance { expected, injected_ns, healing })
}

/// A second child in the cage, for the policy to end: it waits for a word that never comes.
fn leave_behind(stage: &mut Stage, cage: &Cage) -> Result<Helper, DrillError> {
    let mut helper = Helper::start(ROLE, &[])?;
    stage.ready(&mut helper)?;
    write(&cage.path.join("cgroup.procs"), &helper.pid().as_raw().to_string())?;
    Ok(helper)
}

/// The throw-away cgroup; removed when it goes out of scope.
struct Cage {
    path: std::path::PathBuf,
    home: Home,
    standing: bool,
}

impl Cage {
    /// Tells the janitor first, then makes the cgroup and limits it.
    fn make(stage: &mut Stage, home: Home, name: &str) -> Result<Self, DrillError> {
        let path = home.parent.join(name);
        stage.janitor.tell_of_cgroup(&path)?;
        if home.enable_memory {
            stage.janitor.tell_of_subtree(&home.parent)?;
        }
        let cage = Self { path, home, standing: true };
        cage.home.enable()?;
        std::fs::create_dir(&cage.path)
            .map_err(DrillError::system("make the cgroup", cage.path.display().to_string()))?;
        cage.limit()?;
        Ok(cage)
    }

    fn limit(&self) -> Result<(), DrillError> {
        let bytes = LIMIT_BYTES.to_string();
        match self.home.version {
            Version::One => {
                write(&self.path.join("memory.limit_in_bytes"), &bytes)?;
                // Memory and swap together; the file is there only with swap accounting.
                write_if_there(&self.path.join("memory.memsw.limit_in_bytes"), &bytes)?;
                // A parent may hand down that its tasks wait instead of being killed.
                write_if_there(&self.path.join("memory.oom_control"), "0")
            }
            Version::Two => {
                write(&self.path.join("memory.max"), &bytes)?;
                write_if_there(&self.path.join("memory.swap.max"), "0")
            }
        }
    }

    fn dismantle(mut self) -> Result<(), DrillError> {
        self.standing = false;
        remove(&self.path).map_err(DrillError::system("remove the cgroup", self.path.display().to_string()))?;
        self.home.restore();
        Ok(())
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if self.standing && remove(&self.path).is_ok() {
            self.home.restore();
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), DrillError> {
    std::fs::write(path, text).map_err(DrillError::system("write to", path.display().to_string()))
}

fn write_if_there(path: &Path, text: &str) -> Result<(), DrillError> {
    if path.exists() { write(path, text) } else { Ok(()) }
}

/// Child side: waits until it sits in the cgroup, then takes memory page by page.
pub fn help() -> Result<(), DrillError> {
    take_name(NAME)?;
    // Inherited protection from the OOM killer would turn the drill into an endless loop in the kernel.
    write(Path::new("/proc/self/oom_score_adj"), "1000")?;
    say(&Word::Ready(String::new()))?;
    if !hear()? {
        return Ok(());
    }
    say(&Word::Injected(monotonic_ns()))?;
    take_memory()?;
    say(&Word::Done("alive".into()))
}

/// Maps [`TAKE_BYTES`] and writes to every page.
fn take_memory() -> Result<(), DrillError> {
    let length = std::num::NonZeroUsize::new(TAKE_BYTES).ok_or_else(|| DrillError::unavailable("no size"))?;
    let (rights, kind) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE);
    #[expect(unsafe_code, reason = "a plain Vec could be optimised away or filled by huge pages at once")]
    // SAFETY: a new private mapping of TAKE_BYTES that nothing else uses; every write is inside it.
    unsafe {
        let start = mmap_anonymous(None, length, rights, kind).map_err(DrillError::system("map", "256 MB"))?;
        for offset in (0..TAKE_BYTES).step_by(4096) {
            start.cast::<u8>().as_ptr().add(offset).write_volatile(1);
        }
    }
    Ok(())
}
