//! One action on one cgroup, ready to be written down and then made. In: verb, limit and target; out: what to undo
//! ([`Prepared::undo`], for the journal), the deed ([`Prepared::apply`]) and its proof ([`Prepared::healthy`]).

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{SysconfVar, sysconf};

use super::dir::Dir;
use super::kill::{Kill, watch};
use super::knob::{Change, Knob, Undo};
use super::limit;
use super::place::Target;
use crate::clock;
use crate::heal::{HandError, Protection};
use crate::kernel::{CgroupLayout, CgroupVersion};
use crate::model::action::{Limit, Verb};

/// Longest wait before the state of a freeze is read again, ms; v1 has nothing to wait on.
const LOOK_AGAIN_MS: u16 = 10;

/// A change and the directory it goes to.
#[derive(Debug)]
struct Armed {
    change: Change,
    dir: Dir,
}

#[derive(Debug)]
enum Work {
    Kill(Kill),
    /// `wait`: the freeze to wait for.
    Change {
        armed: Vec<Armed>,
        wait: Option<(Knob, Dir)>,
    },
}

/// An action that was looked into and not yet made.
#[derive(Debug)]
pub struct Prepared {
    target: Target,
    work: Work,
}

/// Looks into an action: guards, the files it needs, the values it will change. Touches nothing.
///
/// # Errors
/// A refusal of the guards, or what is missing.
pub fn prepare(
    layout: &CgroupLayout,
    protection: &Protection,
    verb: Verb,
    limit: Limit,
    target: Target,
) -> Result<Prepared, HandError> {
    target.guard(protection)?;
    let work = match verb {
        Verb::Kill => Work::Kill(Kill::prepare(layout, protection, &target)),
        Verb::FreezeCgroup => freeze(layout, protection, &target)?,
        Verb::ThawCgroup => thaw(layout, protection, &target)?,
        Verb::LimitCgroup => limits(layout, protection, limit, &target)?,
        Verb::RestartUnit | Verb::StopUnit => {
            let why = "units are the service manager's".into();
            return Err(HandError::Unsupported { operation: verb.name(), what: target.dir.name(), why });
        }
    };
    Ok(Prepared { target, work })
}

/// The cgroups that freeze exactly the target's processes, the unified one first.
pub(in crate::heal) fn freezers(layout: &CgroupLayout, target: &Target) -> Result<Vec<(Target, Knob)>, HandError> {
    let v1 = layout.hierarchy_of("freezer").filter(|h| h.version == CgroupVersion::V1);
    let trees = [(layout.v2_tree(), Knob::Freeze), (v1, Knob::FreezerState)];
    let mut found = Vec::new();
    let mut refused = None;
    for (tree, knob) in trees {
        let Some(tree) = tree else { continue };
        let twin =
            if tree == target.hierarchy { target.place.open().map(|dir| target.with(dir)) } else { target.twin(&tree) };
        match twin.and_then(|twin| knob.read(&twin.dir).map(|_| (twin, knob))) {
            Ok(freezer) => found.push(freezer),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok(found),
    }
}

fn freeze(layout: &CgroupLayout, protection: &Protection, target: &Target) -> Result<Work, HandError> {
    let Some((freezer, knob)) = freezers(layout, target)?.into_iter().next() else {
        let why = "no hierarchy here can freeze".into();
        return Err(HandError::Unsupported { operation: "freeze", what: target.dir.name(), why });
    };
    freezer.guard(protection)?;
    let wait = Some((knob, freezer.place.open()?));
    Ok(Work::Change { armed: arm(freezer, knob, |_, _| Ok("1".into()))?.into_iter().collect(), wait })
}

fn thaw(layout: &CgroupLayout, protection: &Protection, target: &Target) -> Result<Work, HandError> {
    let mut armed = Vec::new();
    for (freezer, knob) in freezers(layout, target)? {
        freezer.guard(protection)?;
        armed.extend(arm(freezer, knob, |_, _| Ok("0".into()))?);
    }
    Ok(Work::Change { armed, wait: None })
}

fn limits(layout: &CgroupLayout, protection: &Protection, limit: Limit, target: &Target) -> Result<Work, HandError> {
    let mut armed = Vec::new();
    if let Some(percent) = limit.memory_percent {
        let holder = holder(layout, "memory", target)?;
        holder.guard(protection)?;
        let knob = if holder.is_v2() { Knob::MemoryHigh } else { Knob::MemoryLimit };
        armed.extend(arm(holder, knob, |dir, old| memory(knob, dir, percent, old))?);
    }
    if let Some(permille) = limit.cpu_permille {
        let holder = holder(layout, "cpu", target)?;
        holder.guard(protection)?;
        let knob = if holder.is_v2() { Knob::CpuMax } else { Knob::CpuQuota };
        armed.extend(arm(holder, knob, |dir, old| cpu(knob, dir, permille, old))?);
    }
    Ok(Work::Change { armed, wait: None })
}

/// The target's counterpart in the hierarchy of a controller.
fn holder(layout: &CgroupLayout, controller: &'static str, target: &Target) -> Result<Target, HandError> {
    let Some(tree) = layout.hierarchy_of(controller) else {
        let why = format!("the {controller} controller is in no mounted hierarchy");
        return Err(HandError::Unsupported { operation: "limit", what: target.dir.name(), why });
    };
    if tree == target.hierarchy { Ok(target.with(target.place.open()?)) } else { target.twin(&tree) }
}

/// `None`: the value is what it should be already, so that there is nothing to do and nothing to undo.
fn arm(
    target: Target,
    knob: Knob,
    new: impl FnOnce(&Dir, &str) -> Result<String, HandError>,
) -> Result<Option<Armed>, HandError> {
    let old = knob.read(&target.dir)?;
    let new = new(&target.dir, &old)?;
    let armed = (old != new).then(|| Armed { change: Change { place: target.place, knob, old, new }, dir: target.dir });
    Ok(armed)
}

fn memory(knob: Knob, dir: &Dir, percent: u8, old: &str) -> Result<String, HandError> {
    let file = if knob == Knob::MemoryHigh { "memory.current" } else { "memory.usage_in_bytes" };
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096);
    Ok(limit::memory(knob, percent, number(dir, file)?, old, page))
}

fn cpu(knob: Knob, dir: &Dir, permille: u32, old: &str) -> Result<String, HandError> {
    if knob == Knob::CpuQuota {
        return Ok(limit::cpu_quota(permille, number(dir, "cpu.cfs_period_us")?, old));
    }
    limit::cpu_max(permille, old).ok_or_else(|| odd(dir, "cpu.max", old))
}

fn number(dir: &Dir, file: &'static str) -> Result<u64, HandError> {
    let text = dir.read(file)?;
    text.trim().parse().map_err(|_| odd(dir, file, &text))
}

fn odd(dir: &Dir, file: &str, text: &str) -> HandError {
    let why = format!("{file} says {text:?}, which is no value that is known");
    HandError::Unsupported { operation: "limit", what: dir.name(), why }
}

impl Prepared {
    /// What has to be taken back; goes into the journal before [`Self::apply`]. Empty for a kill.
    pub fn undo(&self) -> Undo {
        match &self.work {
            Work::Kill(_) => Undo::default(),
            Work::Change { armed, .. } => Undo { changes: armed.iter().map(|armed| armed.change.clone()).collect() },
        }
    }

    /// Makes it. What was half made when it failed, or did not freeze in time, is taken back. Blocks, at most until
    /// `deadline_ns` (CLOCK_MONOTONIC) and a little longer.
    ///
    /// # Errors
    /// [`HandError::Gone`] when the cgroup was removed meanwhile, [`HandError::TimedOut`], or what the kernel said.
    pub fn apply(&self, deadline_ns: u64) -> Result<(), HandError> {
        let (armed, wait) = match &self.work {
            Work::Kill(kill) => return kill.run(&self.target.dir, deadline_ns),
            Work::Change { armed, wait } => (armed, wait),
        };
        let made = armed.iter().try_for_each(|armed| armed.change.apply(&armed.dir));
        let over = made.and_then(|()| match wait {
            Some((knob, dir)) => wait_frozen(*knob, dir, deadline_ns),
            None => Ok(()),
        });
        if over.is_err() {
            for armed in armed.iter().rev() {
                let _ = armed.change.restore();
            }
        }
        over
    }

    /// Whether it holds now: kill: nobody left; freeze: frozen; thaw: not told to freeze; limit: in force.
    /// `None`: the cgroup cannot be read.
    pub fn healthy(&self) -> Option<bool> {
        match &self.work {
            Work::Kill(_) => match self.target.dir.processes_below() {
                Ok(left) => Some(left.is_empty()),
                Err(HandError::Gone { .. }) => Some(true),
                Err(_) => None,
            },
            Work::Change { wait: Some((knob, dir)), .. } => is_frozen(*knob, dir).ok(),
            Work::Change { armed, .. } => {
                let holds = |armed: &Armed| armed.change.knob.read(&armed.dir).map(|now| now == armed.change.new);
                armed.iter().map(holds).try_fold(true, |all, one| one.map(|one| all && one)).ok()
            }
        }
    }
}

/// Whether every task has stopped.
pub(super) fn is_frozen(knob: Knob, dir: &Dir) -> Result<bool, HandError> {
    if knob == Knob::FreezerState {
        return Ok(dir.read("freezer.state")?.trim() == "FROZEN");
    }
    Ok(dir.read("cgroup.events")?.lines().any(|line| line == "frozen 1"))
}

fn wait_frozen(knob: Knob, dir: &Dir, deadline_ns: u64) -> Result<(), HandError> {
    loop {
        let events = watch(dir).ok();
        if is_frozen(knob, dir)? {
            return Ok(());
        }
        if clock::monotonic_ns() >= deadline_ns {
            let left = "some tasks still run; thawed again".into();
            return Err(HandError::TimedOut { operation: "freeze", what: dir.name(), left });
        }
        let mut fds: Vec<_> = events.iter().map(|file| PollFd::new(file.as_fd(), PollFlags::POLLPRI)).collect();
        let _ = poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS));
    }
}
