//! The least that can act on a crash. In: the agent's own configuration file, a folder of cgroups, a file in each of them.
//! Out: a line per crash in one of them: the kernel's stamp of the event, and the time at which the file was written.
//!
//! A mode of `faultline-bare`: the same object and ring as the agent's, one epoll, one table from cgroup to an open
//! descriptor, one write(2), one look at the clock. No policy, no brakes, no journal. What the configuration says of CPU,
//! priority and waiting holds here as it does there.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use faultline::{
    clock::monotonic_ns,
    config::{Config, Spin},
    privilege,
    sensor::loader,
};
use faultline_common::{event::ProcessExit, exit};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    consumer,
    machine::{self, Owned},
};

/// The word by which `faultline-bare` becomes this.
pub const ROLE: &str = "act";
/// The longest silence between two crashes, ns: a crash that went unseen must not hang the benchmark.
const SILENCE_NS: u64 = 30_000_000_000;

/// One crash, answered.
#[derive(Clone, Copy, Debug)]
pub struct Acted {
    /// The kernel's stamp of the event, CLOCK_MONOTONIC ns.
    pub event_ns: u64,
    /// When the write had returned.
    pub end_ns: u64,
}

/// A bare consumer at work.
#[derive(Debug)]
pub struct Running(Owned);

/// Starts one and waits until its programs are attached. It answers `count` crashes in cgroups below `ward` by writing
/// `1` to their file of this name. Everything but its reactor's thread belongs on `aside`, as with the agent.
///
/// # Errors
/// It cannot be started, or cannot load.
pub fn start(config: &Path, ward: &Path, file: &str, count: usize, aside: usize) -> Result<Running> {
    let mut command = Command::new(consumer::beside()?);
    command.arg(ROLE).arg(config).arg(ward).args([file, &count.to_string()]);
    let mut child = Owned::start(command, Some(aside))?;
    let ready = child.line()?;
    ensure!(ready == "ready", "the bare consumer says `{ready}`");
    Ok(Running(child))
}

impl Running {
    /// Its answer to the next crash.
    ///
    /// # Errors
    /// It ended instead.
    pub fn answer(&mut self) -> Result<Acted> {
        let line = self.0.line()?;
        let (event, end) = line.split_once(' ').context("the bare consumer says two times")?;
        Ok(Acted { event_ns: event.parse()?, end_ns: end.parse()? })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(self) -> Result<()> {
        self.0.wait()
    }
}

/// The role itself.
///
/// # Errors
/// Wrong arguments, the object cannot be loaded, or a crash stayed out.
pub fn main(args: &[String]) -> Result<()> {
    let [config, ward, file, count] = args else { bail!("{ROLE} CONFIG FOLDER FILE COUNT are expected") };
    let config = Config::parse(&fs::read_to_string(config)?, config)?;
    for _ in [privilege::raise_memlock(), privilege::lock_memory(), privilege::protect_from_oom()] {}
    let files = opened(Path::new(ward), file)?;
    let mut loaded = loader::load(&machine::facts(), &config, &loader::Options::default())?;
    let mut ring = loaded.critical.take().context("the critical ring")?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(ring.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let _ = privilege::place_reactor(&config.reactor);
    let mut left: usize = count.parse()?;
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    let mut idle_since = monotonic_ns();
    let mut last = idle_since;
    while left > 0 {
        while let Some(record) = ring.next() {
            let Some((event_ns, mut target)) = crash(&record, &files) else { continue };
            target.write_all(b"1")?;
            let end_ns = monotonic_ns();
            writeln!(out, "{event_ns} {end_ns}")?;
            (left, last, idle_since) = (left.saturating_sub(1), end_ns, end_ns);
        }
        idle_since = rest(config.reactor.spin, &epoll, idle_since);
        ensure!(monotonic_ns() < last + SILENCE_NS, "a crash was never seen");
    }
    Ok(())
}

/// Waits as the agent's source does: for ever awake, awake for a while, or asleep. Since when it has been idle.
fn rest(spin: Spin, epoll: &Epoll, idle_since: u64) -> u64 {
    match spin {
        Spin::Always => idle_since,
        Spin::Adaptive(spin_ns) if monotonic_ns() < idle_since + spin_ns => {
            std::hint::spin_loop();
            idle_since
        }
        _ => {
            let _ = epoll.wait(&mut [EpollEvent::empty(); 4], EpollTimeout::from(250u8));
            monotonic_ns()
        }
    }
}

/// The event's time and the file to write, if the record is of a crash in a known cgroup.
fn crash<'a>(record: &[u8], files: &'a HashMap<u64, File>) -> Option<(u64, &'a File)> {
    let event = ProcessExit::from_bytes(record)?;
    let crashed = exit::signal(event.exit_code) == libc::SIGSEGV.cast_unsigned();
    let file = files.get(&event.header.cgroup_id).filter(|_| crashed)?;
    Some((event.header.ktime_ns, file))
}

/// The file of each cgroup below a folder, by the cgroup's id.
fn opened(ward: &Path, file: &str) -> Result<HashMap<u64, File>> {
    let mut files = HashMap::new();
    for entry in fs::read_dir(ward).with_context(|| ward.display().to_string())? {
        let (path, data) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        if data.is_dir() {
            let path = path.join(file);
            let opened = File::options().write(true).open(&path).with_context(|| path.display().to_string())?;
            files.insert(data.ino(), opened);
        }
    }
    Ok(files)
}
