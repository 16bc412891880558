//! The janitor: removes what a drill left when it could not do so itself. In: a pipe that closes when the drill ends; out: a
//! machine as it was.
//!
//! Processes, namespaces, XDP links, FUSE mounts and auto-clearing loop devices fall with the processes that hold them, also on
//! SIGKILL. A cgroup does not, and a loop device may be kept by somebody who looks at it. So before anything is made, a process
//! in a session of its own starts to wait for the end of a pipe that only the drill holds. It is told of each cgroup *before*
//! that is made. Should it be killed too, `drill --clean` finds the rest by name.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

use nix::sys::signal::{SigSet, Signal};

use super::child::{OnParentDeath, spawn};
use super::helper::{Word, command, say, take_name};
use super::{DrillError, cgroup, loopdev, policy};

/// Helper that cleans up.
pub const ROLE: &str = "janitor";

/// The janitor as the drill sees it.
pub struct Janitor {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Janitor {
    /// Starts it and waits until it is on guard.
    pub fn start() -> Result<Self, DrillError> {
        let mut command = command(ROLE, &[&std::process::id().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
        let spawned = spawn(&mut command, OnParentDeath::Outlive);
        let mut child = spawned.map_err(DrillError::system("start the helper", ROLE))?;
        let (pipe, stdout) = (child.stdin.take(), child.stdout.take());
        let janitor = Self { child, pipe };
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let heard = BufReader::new(stdout.take(64)).read_line(&mut line);
            heard.map_err(DrillError::system("hear from", "the janitor"))?;
        }
        if line.starts_with("ready") { Ok(janitor) } else { Err(protocol(line)) }
    }

    /// Names a cgroup that is about to be made.
    pub fn tell_of_cgroup(&mut self, path: &Path) -> Result<(), DrillError> {
        self.tell("cgroup", path)
    }

    /// Names a cgroup that is about to hand the memory controller down.
    pub fn tell_of_subtree(&mut self, path: &Path) -> Result<(), DrillError> {
        self.tell("subtree", path)
    }

    /// Names a folder that is about to be made.
    pub fn tell_of_folder(&mut self, path: &Path) -> Result<(), DrillError> {
        self.tell("folder", path)
    }

    /// Everything named so far, but for folders, is removed and taken back.
    pub fn tell_all_is_gone(&mut self) -> Result<(), DrillError> {
        self.tell("gone", Path::new("all"))
    }

    /// Lets it end; it removes whatever is still there first.
    pub fn dismiss(&mut self) -> Result<(), DrillError> {
        self.pipe = None;
        self.child.wait().map_err(DrillError::system("wait for", "the janitor"))?;
        Ok(())
    }

    fn tell(&mut self, what: &str, path: &Path) -> Result<(), DrillError> {
        let sent = match &mut self.pipe {
            Some(pipe) => writeln!(pipe, "{what} {}", path.display()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        sent.map_err(DrillError::system("tell the janitor of", path.display().to_string()))
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        let _ = self.dismiss();
    }
}

fn protocol(said: String) -> DrillError {
    DrillError::Protocol { role: ROLE, said, wanted: "ready" }
}

/// Child side: notes what it is told, and cleans up when the pipe ends.
pub fn help(args: &[String]) -> Result<(), DrillError> {
    // Ctrl-C, a closing terminal and a polite stop are for the drill; the janitor ends when the drill has ended.
    let mut deaf = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE] {
        deaf.add(signal);
    }
    deaf.thread_block().map_err(DrillError::system("block", "the stop signals"))?;
    take_name("fl-drill-clean")?;
    say(&Word::Ready(String::new()))?;
    let (mut cgroups, mut subtrees, mut folders) = (Vec::new(), Vec::new(), Vec::new());
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("cgroup", path)) => cgroups.push(PathBuf::from(path)),
            Some(("subtree", path)) => subtrees.push(PathBuf::from(path)),
            Some(("folder", path)) => folders.push(PathBuf::from(path)),
            Some(("gone", _)) => {
                cgroups.clear();
                subtrees.clear();
            }
            _ => {}
        }
    }
    let outcome = sweep(&cgroups, &subtrees, args.first().and_then(|pid| pid.parse().ok()));
    folders.iter().fold(outcome, |outcome, path| outcome.and(policy::remove(path)))
}

/// Removes what one drill left; goes on after a failure and reports the first.
fn sweep(cgroups: &[PathBuf], subtrees: &[PathBuf], drill: Option<u32>) -> Result<(), DrillError> {
    let mut outcome = Ok(());
    for path in cgroups {
        outcome = outcome.and(remove_cgroup(path));
    }
    subtrees.iter().for_each(|path| cgroup::withdraw(path));
    for left in loopdev::leftovers().iter().filter(|left| Some(left.pid) == drill) {
        outcome = outcome.and(left.detach().map(drop));
    }
    outcome
}

/// `drill --clean`: removes what drills left that are dead and whose janitor is dead, too.
pub fn clean(on_removed: &mut dyn FnMut(&str)) -> Result<(), DrillError> {
    let mut outcome = Ok(());
    for (path, _) in cgroup::leftovers().iter().filter(|(_, pid)| !is_drill(*pid)) {
        let removed = remove_cgroup(path);
        if removed.is_ok() {
            on_removed(&format!("cgroup {}", path.display()));
        }
        outcome = outcome.and(removed);
    }
    for (path, _) in policy::leftovers().iter().filter(|(_, pid)| !is_drill(*pid)) {
        let removed = policy::remove(path);
        if removed.is_ok() {
            on_removed(&format!("folder {}", path.display()));
        }
        outcome = outcome.and(removed);
    }
    for left in loopdev::leftovers().iter().filter(|left| !is_drill(left.pid)) {
        let detached = left.detach();
        if matches!(detached, Ok(true)) {
            on_removed(&format!("loop device /dev/{} ({})", left.device, left.backing));
        }
        outcome = outcome.and(detached.map(drop));
    }
    outcome
}

fn remove_cgroup(path: &Path) -> Result<(), DrillError> {
    cgroup::remove(path).map_err(DrillError::system("remove the cgroup", path.display().to_string()))
}

/// True when a running process of that id is a drill, and not another process that got the number later.
fn is_drill(pid: u32) -> bool {
    if pid == std::process::id() {
        return false;
    }
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).skip(1).any(|argument| argument == b"drill")
}
