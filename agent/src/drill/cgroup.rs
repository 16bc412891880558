//! Throw-away cgroups. In: what /proc says about the mounted hierarchies; out: where a memory cgroup can be made, and its removal.
//!
//! Version 1 is used where its memory hierarchy is mounted (a controller lives in one hierarchy only), else version 2. There, a
//! child gets a memory limit only if its parent hands the controller down: the nearest ancestor that does is the home. If none
//! does, the root (which alone may hold processes and hand down) is asked to, and told to stop afterwards.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::child::{PidFd, send};
use super::{DrillError, PREFIX};

/// How often the removal of a busy cgroup is tried, about 10 ms apart.
const REMOVE_TRIES: usize = 200;

/// The version of a cgroup hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `memory.limit_in_bytes`.
    One,
    /// `memory.max`.
    Two,
}

/// One mounted hierarchy that may hold the memory controller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// Where it is mounted.
    point: PathBuf,
    /// Which part of the hierarchy is mounted there.
    root: String,
}

/// Where the throw-away cgroup is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Which files limit it.
    pub version: Version,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The directory that will hold it.
    pub parent: PathBuf,
    /// True when the parent must first be told to hand the memory controller down.
    pub enable_memory: bool,
}

impl Home {
    /// Looks through the mounted hierarchies.
    pub fn find() -> Result<Self, DrillError> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(DrillError::system("read", path));
        let mounts = mounts(&read("/proc/self/mountinfo")?);
        let own = read("/proc/self/cgroup")?;
        if let Some(mount) = mounts.iter().find(|mount| mount.version == Version::One) {
            let (mount, parent) = (mount.point.clone(), own_directory(mount, &own));
            return Ok(Self { version: Version::One, mount, parent, enable_memory: false });
        }
        let second = mounts.iter().find(|mount| lists_memory(&mount.point.join("cgroup.controllers")));
        let Some(mount) = second else {
            return Err(DrillError::unavailable("no mounted cgroup hierarchy has the memory controller"));
        };
        let start = own_directory(mount, &own);
        let handing = start.ancestors().take_while(|path| path.starts_with(&mount.point));
        let near = handing.into_iter().find(|path| lists_memory(&path.join("cgroup.subtree_control")));
        let parent = near.unwrap_or(&mount.point).to_path_buf();
        let mount = mount.point.clone();
        Ok(Self { version: Version::Two, mount, parent, enable_memory: near.is_none() })
    }

    /// The path of a cgroup made here, as the hierarchy names it.
    pub fn path_of(&self, name: &str) -> String {
        let parent = self.parent.strip_prefix(&self.mount).unwrap_or(Path::new(""));
        Path::new("/").join(parent).join(name).display().to_string()
    }

    /// Tells the parent to hand the memory controller down, where it does not yet.
    pub fn enable(&self) -> Result<(), DrillError> {
        if !self.enable_memory {
            return Ok(());
        }
        let path = self.parent.join("cgroup.subtree_control");
        std::fs::write(&path, "+memory").map_err(|error| {
            let reason =
                format!("no cgroup hands the memory controller down and {} refuses to: {error}", path.display());
            DrillError::unavailable(reason)
        })
    }

    /// Takes [`Home::enable`] back. A refusal means that others use the controller by now, so it stays.
    pub fn restore(&self) {
        if self.enable_memory {
            withdraw(&self.parent);
        }
    }
}

/// Stops handing the memory controller down from `parent`.
pub fn withdraw(parent: &Path) {
    let _ = std::fs::write(parent.join("cgroup.subtree_control"), "-memory");
}

/// Ends every process of a drill's cgroup and removes it; one that is gone already is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..REMOVE_TRIES {
        end_all(path)?;
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => wait_for_change(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// The drills' cgroups under every hierarchy that may hold one, with the process id in their name.
pub fn leftovers() -> Vec<(PathBuf, u32)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for mount in mounts(&text) {
        search(&mount.point, 0, &mut found);
    }
    found
}

/// Looks for the drills' name in a directory and below; hierarchies are shallow, 16 levels are plenty.
fn search(directory: &Path, depth: usize, found: &mut Vec<(PathBuf, u32)>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let name = entry.file_name();
        match name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse().ok()) {
            Some(pid) => found.push((entry.path(), pid)),
            None if depth < 16 => search(&entry.path(), depth + 1, found),
            None => {}
        }
    }
}

/// Kills the processes of the cgroup and waits, at most 2 s each, until they are dead.
fn end_all(path: &Path) -> io::Result<()> {
    let mut dying = Vec::new();
    for pid in processes(path)? {
        let Ok(pidfd) = PidFd::open(pid.as_raw().cast_unsigned()) else { continue };
        // Between the list and the open the number may have become another process: ask again with the pidfd in hand.
        if processes(path)?.contains(&pid) {
            send(&pidfd, Signal::SIGKILL)?;
            dying.push(pidfd);
        }
    }
    for pidfd in dying {
        poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(2000_u16))?;
    }
    Ok(())
}

fn processes(path: &Path) -> io::Result<Vec<Pid>> {
    match std::fs::read_to_string(path.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Waits at most 10 ms. Version 2 tells by POLLPRI on `cgroup.events` when the last process left; version 1 has nothing to
/// wait on between a process's death and its leaving the cgroup, so there only the time passes.
fn wait_for_change(path: &Path) -> io::Result<()> {
    let events = std::fs::File::open(path.join("cgroup.events")).ok();
    let mut set: Vec<PollFd<'_>> = Vec::new();
    if let Some(file) = &events {
        set.push(PollFd::new(file.as_fd(), PollFlags::POLLPRI));
    }
    poll(&mut set, PollTimeout::from(10_u8))?;
    Ok(())
}

/// The hierarchies of mountinfo that may hold the memory controller: version 1 with `memory` in its options, and version 2.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let version = match name {
        "cgroup" if options.split(',').any(|option| option == "memory") => Version::One,
        "cgroup2" => Version::Two,
        _ => return None,
    };
    let mut place = place.split(' ').skip(3);
    let root = place.next()?.to_owned();
    Some(Mount { version, point: PathBuf::from(place.next()?), root })
}

/// This process's own cgroup as a directory; the mount point where that lies outside of what is mounted.
fn own_directory(mount: &Mount, own: &str) -> PathBuf {
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let wanted = match mount.version {
            Version::One => controllers.split(',').any(|name| name == "memory"),
            Version::Two => controllers.is_empty(),
        };
        wanted.then_some(path)
    });
    let below = path.and_then(|path| path.strip_prefix(mount.root.trim_end_matches('/')));
    let directory = below.map(|below| mount.point.join(below.trim_start_matches('/')));
    directory.filter(|directory| directory.is_dir()).unwrap_or_else(|| mount.point.clone())
}

/// True when a file with a list of controllers names the memory controller.
fn lists_memory(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.split_whitespace().any(|name| name == "memory"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Mount, Version, mounts, own_directory};

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_found_with_and_without_optional_fields() {
        let point = |path: &str| Path::new(path).to_path_buf();
        let one = Mount { version: Version::One, point: point("/sys/fs/cgroup/memory"), root: "/".into() };
        let two = Mount { version: Version::Two, point: point("/sys/fs/cgroup/unified"), root: "/".into() };
        assert_eq!(mounts(HYBRID), [one, two]);
        assert!(mounts("22 27 0:21 / /proc rw - proc proc rw\n").is_empty());
        assert!(mounts("garbage").is_empty());
    }

    #[test]
    fn an_own_cgroup_outside_of_the_mount_falls_back_to_the_mount_point() {
        let point = std::env::temp_dir();
        let mount = Mount { version: Version::Two, point: point.clone(), root: "/inner".into() };
        assert_eq!(own_directory(&mount, "0::/elsewhere\n"), point);
        assert_eq!(own_directory(&mount, "0::/inner\n"), point);
        assert_eq!(own_directory(&mount, "4:memory:/inner/x\n"), point);
    }
}
