//! A group of processes of which one is greedy. In: a name, and a word to begin. Out: when its memory crossed a limit, when it
//! got its last, and when everybody was dead.
//!
//! All of them are this program under other words; nobody takes memory before it is told to, so that all of it is charged
//! to the group's cgroup. The greedy one leaves its two times in a file, because nothing can be asked of the dead.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{fs::FileExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;

use crate::bench::machine;

/// The word by which `faultline-case` becomes one of a group.
pub const GREEDY: &str = "take-memory";
/// What the greedy one takes between two looks at the clock, bytes ...
const CHUNK: usize = 256 << 10;
/// ... how long it rests after each, ms ...
const REST_MS: u64 = 2;
/// ... and how much it takes beyond the limit that it was told, so that it stays beyond.
const BEYOND: usize = 16 << 20;
/// What the others have, bytes.
const MODEST: usize = 4 << 20;
/// How many others there are.
const OTHERS: usize = 2;

/// The group; killed, and its cgroup removed, when it is dropped.
pub struct Group {
    folder: PathBuf,
    times: File,
    path: PathBuf,
    /// The greedy one first.
    members: Mutex<Vec<Child>>,
}

impl Group {
    /// Makes the cgroup and the processes; the modest ones have their memory when this returns.
    ///
    /// # Errors
    /// The cgroup cannot be made, or nobody can be started.
    pub fn new(name: &str) -> Result<Self> {
        let folder = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        let path = std::env::temp_dir().join(name);
        let times = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        let group = Self { folder, times, path, members: Mutex::new(Vec::new()) };
        let leader = group.join(0, 900)?;
        for _ in 0..OTHERS {
            group.join(leader, 0)?;
        }
        group
            .members(|members| members.iter_mut().skip(1).try_for_each(|child| tell(child, &format!("{MODEST}\n"))))?;
        Ok(group)
    }

    /// One more process; 0 leads a process group of its own. Its pid.
    fn join(&self, leader: i32, score: i32) -> Result<i32> {
        let mut command = Command::new(std::env::current_exe().context("no program")?);
        command.arg(GREEDY).arg(&self.path).process_group(leader);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().context("cannot start one of a group")?;
        let pid = child.id();
        self.members(|members| members.push(child));
        fs::write(self.folder.join("cgroup.procs"), pid.to_string())?;
        fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())?;
        Ok(i32::try_from(pid)?)
    }

    fn members<T>(&self, work: impl FnOnce(&mut Vec<Child>) -> T) -> T {
        work(&mut self.members.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Limits the cgroup's memory.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        self.set("memory.max", &bytes.to_string())
    }

    /// Writes one of the cgroup's files.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn set(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.folder.join(file), text).with_context(|| format!("cannot write {file}"))
    }

    /// The greedy one begins: until MemAvailable is below this many per cent, or for ever.
    ///
    /// # Errors
    /// It is dead already.
    pub fn go(&self, percent: Option<u64>) -> Result<()> {
        let word = percent.map_or("limit\n".to_owned(), |percent| format!("percent {percent}\n"));
        self.members(|members| {
            let stdin = members.first_mut().and_then(|child| child.stdin.as_mut()).context("nobody is there")?;
            stdin.write_all(word.as_bytes()).context("the greedy one does not listen")
        })
    }

    /// Waits for the end of everybody. When that was.
    ///
    /// # Errors
    /// They cannot be waited for.
    pub fn all_dead(&self) -> Result<u64> {
        self.members(|members| members.iter_mut().try_for_each(|child| child.wait().map(drop)))?;
        Ok(monotonic_ns())
    }

    /// When it got its last memory.
    ///
    /// # Errors
    /// It never got any.
    pub fn last_taken(&self) -> Result<u64> {
        self.time(0)
    }

    /// When the machine's memory crossed the limit that it was told.
    ///
    /// # Errors
    /// It never did.
    pub fn crossed(&self) -> Result<u64> {
        self.time(8)
    }

    fn time(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.times.read_exact_at(&mut bytes, at).context("the greedy one left no time")?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.members(|members| {
            for child in members {
                let _ = child.kill();
                let _ = child.wait();
            }
        });
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Tells a process what to take and waits until it has it.
fn tell(child: &mut Child, word: &str) -> Result<()> {
    child.stdin.as_mut().context("a pipe was asked for")?.write_all(word.as_bytes())?;
    let mut ready = [0];
    child.stdout.as_mut().context("a pipe was asked for")?.read_exact(&mut ready).context("it did not get ready")
}

/// The life of one of a group: takes what the first line on standard input says.
///
/// # Errors
/// Nobody tells it anything.
pub fn greedy(words: &[String]) -> Result<()> {
    let times = File::options().write(true).open(words.first().context("a file is expected")?)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["limit"] => take_until(&times, None),
        ["percent", percent] => take_until(&times, Some(percent.parse()?)),
        [bytes] => {
            let taken = take(bytes.parse()?);
            std::io::stdout().write_all(b"r")?;
            std::io::stdout().flush()?;
            rest(&taken)
        }
        _ => anyhow::bail!("`{line}` is no order"),
    }
}

/// Takes chunk after chunk and writes down when; beyond the limit a bit more, then rests.
fn take_until(times: &File, percent: Option<u64>) -> Result<()> {
    let (mut all, mut left) = (Vec::with_capacity(1 << 14), None::<usize>);
    while left != Some(0) {
        all.push(take(CHUNK));
        let now = monotonic_ns();
        times.write_all_at(&now.to_ne_bytes(), 0)?;
        left = match left {
            Some(left) => Some(left.saturating_sub(CHUNK)),
            None if percent.map(is_below).transpose()? == Some(true) => {
                times.write_all_at(&monotonic_ns().to_ne_bytes(), 8)?;
                Some(BEYOND)
            }
            None => None,
        };
        machine::wait(std::time::Duration::from_millis(REST_MS));
    }
    rest(&all)
}

fn take(bytes: usize) -> Vec<u8> {
    let mut taken = vec![0u8; bytes];
    taken.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    taken
}

fn rest<T>(taken: &T) -> Result<()> {
    std::hint::black_box(taken);
    loop {
        nix::unistd::pause();
    }
}

/// As earlyoom judges it: MemAvailable against MemTotal.
fn is_below(percent: u64) -> Result<bool> {
    let (available, total) = share(&fs::read_to_string("/proc/meminfo")?).context("/proc/meminfo")?;
    ensure!(total > 0, "no memory");
    Ok(available * 100 <= percent * total)
}

/// MemAvailable and MemTotal of a text as /proc/meminfo has it, kB.
pub fn share(meminfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((field("MemAvailable:")?, field("MemTotal:")?))
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn memory_is_read_by_name() {
        let text = "MemTotal:         491520 kB\nMemFree:          300 kB\nMemAvailable:     245760 kB\n";
        assert_eq!(share(text), Some((245_760, 491_520)));
        assert_eq!(share("MemTotal: 1 kB\n"), None);
    }
}
