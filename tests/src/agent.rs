//! An agent as a child. In: arguments of `faultline`. Out: its lines, each checked against the schema, and how
//! it ended.
//!
//! Every wait is a `poll` with a deadline: a test waits for the line itself, never for a while.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::FileExt,
        unix::process::ExitStatusExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use faultline::clock::monotonic_ns;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;

use crate::{program, schema};

/// Time for anything that takes milliseconds on a good machine: an emulator under load is a hundred times
/// slower. Only a failing test ever uses it up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Sensors of this build, each with one `health` line at start.
pub const SENSORS: usize = 8;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// As printed, without the line feed.
    pub text: String,
    /// As read.
    pub value: Value,
}

impl Line {
    /// Checks a line against the schema.
    ///
    /// # Errors
    /// It breaks it.
    pub fn read(text: &str) -> Result<Self> {
        Ok(Self { text: text.to_owned(), value: schema::check(text)? })
    }

    /// Its `type`.
    pub fn kind(&self) -> &str {
        self.value["type"].as_str().unwrap_or_default()
    }

    /// Whether replay must print it again: `fault`, `action` or `loss`.
    pub fn is_verdict(&self) -> bool {
        matches!(self.kind(), "fault" | "action" | "loss")
    }
}

/// The verdicts among lines, as text for a comparison byte for byte.
pub fn verdicts(lines: &[Line]) -> String {
    lines.iter().filter(|line| line.is_verdict()).flat_map(|line| [line.text.as_str(), "\n"]).collect()
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    stdout: File,
    stderr: File,
    pending: Vec<u8>,
    ended: bool,
    /// Every line so far.
    pub lines: Vec<Line>,
}

/// The service's state directory, where flight recordings go.
pub const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// An agent that ended.
#[derive(Debug)]
pub struct Ended {
    /// Every line.
    pub lines: Vec<Line>,
    /// What it said on standard error.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
    /// From the signal to the end.
    pub took: Duration,
}

impl Ended {
    /// Its last line, which must be the summary.
    ///
    /// # Errors
    /// It is not.
    pub fn summary(&self) -> Result<&Value> {
        let last = self.lines.last().filter(|line| line.kind() == "summary");
        let last = last.with_context(|| format!("no summary; standard error: {}", self.stderr))?;
        Ok(&last.value)
    }

    /// The exit status; a death by a signal is an error.
    ///
    /// # Errors
    /// It died of a signal, or it panicked.
    pub fn code(&self) -> Result<i32> {
        ensure!(!self.stderr.contains("panicked"), "it panicked: {}", self.stderr);
        let signal = self.status.signal();
        self.status.code().with_context(|| format!("died of signal {signal:?}: {}", self.stderr))
    }
}

impl Agent {
    /// Starts `faultline run --json ARGS` and waits until it has told the health of every sensor.
    ///
    /// # Errors
    /// It cannot be started or ends before.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(program::faultline()?);
        command.args(["run", "--json"]).args(args);
        Self::start_command(command)
    }

    /// Starts a prepared `run --json` and waits as [`Self::start`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_command(command: Command) -> Result<Self> {
        let mut agent = Self::spawn(command)?;
        let deadline = after(PATIENCE);
        while agent.lines.iter().filter(|line| line.kind() == "health").count() < SENSORS {
            ensure!(agent.more(deadline)?, "the agent did not tell its health: {}", agent.said());
        }
        Ok(agent)
    }

    /// Starts any command of `faultline` that prints JSON lines.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let stderr = File::from(memfd_create("stderr", MFdFlags::MFD_CLOEXEC)?);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.try_clone()?);
        if !command.get_envs().any(|(name, _)| name == STATE_DIRECTORY) {
            // No test leaves recordings in the machine's own state directory.
            command.env(STATE_DIRECTORY, "/dev/null");
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let pipe: std::os::fd::OwnedFd = child.stdout.take().context("a pipe was asked for")?.into();
        let stdout = File::from(pipe);
        let flags = OFlag::from_bits_retain(fcntl(&stdout, FcntlArg::F_GETFL)?);
        fcntl(&stdout, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { child, stdout, stderr, pending: Vec::new(), ended: false, lines: Vec::new() })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it said on standard error so far.
    pub fn said(&self) -> String {
        let mut text = Vec::new();
        let mut chunk = [0; 4096];
        // Read by place: the child writes through the same file offset.
        while let Ok(count @ 1..) = self.stderr.read_at(&mut chunk, text.len() as u64) {
            text.extend_from_slice(&chunk[..count]);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The first line that fits, among those that came and those that will.
    ///
    /// # Errors
    /// None came in time; the message holds what did.
    pub fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = after(PATIENCE);
        let mut judged = 0;
        loop {
            if let Some(line) = self.lines[judged..].iter().find(|line| fits(&line.value)) {
                return Ok(line.value.clone());
            }
            judged = self.lines.len();
            if !self.more(deadline)? {
                let seen: Vec<_> = self.lines.iter().map(|line| line.text.as_str()).collect();
                bail!("no {what} within {PATIENCE:?}; seen:\n{}\nstandard error: {}", seen.join("\n"), self.said());
            }
        }
    }

    /// Reads until a condition on what it said on standard error holds.
    ///
    /// # Errors
    /// It does not hold in time.
    pub fn wait_until_said(&mut self, text: &str) -> Result<()> {
        let deadline = after(PATIENCE);
        while !self.said().contains(text) {
            ensure!(monotonic_ns() < deadline && !self.ended, "it never said {text:?} but: {}", self.said());
            // Standard error cannot be polled; the next look is after more lines or a tenth of a second.
            self.more(after(Duration::from_millis(100)))?;
        }
        Ok(())
    }

    /// Keeps reading for a while, for what should not come.
    ///
    /// # Errors
    /// A line breaks the schema.
    pub fn watch(&mut self, duration: Duration) -> Result<()> {
        let deadline = after(duration);
        while self.more(deadline)? {}
        Ok(())
    }

    /// Sends a signal and waits for the end.
    ///
    /// # Errors
    /// It cannot be sent, or the agent does not end.
    pub fn stop(mut self, signal: Signal) -> Result<Ended> {
        let start = monotonic_ns();
        kill(self.pid(), signal).context("cannot signal the agent")?;
        self.finish(start)
    }

    /// Makes the pipe of the lines hold one page, so that a few lines fill it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn narrow_pipe(&self) -> Result<()> {
        fcntl(&self.stdout, FcntlArg::F_SETPIPE_SZ(4096)).context("cannot narrow the pipe")?;
        Ok(())
    }

    /// Sends a signal and waits for the end without reading any more lines; the pipe stays open.
    ///
    /// # Errors
    /// It cannot be sent, or the agent does not end.
    pub fn stop_unread(mut self, signal: Signal) -> Result<Ended> {
        let start = monotonic_ns();
        kill(self.pid(), signal).context("cannot signal the agent")?;
        self.ended = true;
        self.finish(start)
    }

    /// Waits for an end by itself.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait(mut self) -> Result<Ended> {
        self.finish(monotonic_ns())
    }

    /// Closes the pipe of the lines, as a reader does that has seen enough, and waits for the end.
    ///
    /// # Errors
    /// It does not end.
    pub fn close_pipe(mut self) -> Result<Ended> {
        let start = monotonic_ns();
        self.stdout = File::open("/dev/null")?;
        self.ended = true;
        self.finish(start)
    }

    fn finish(&mut self, start: u64) -> Result<Ended> {
        let deadline = after(PATIENCE);
        while !self.ended {
            ensure!(self.more(deadline)? || self.ended, "the agent does not end: {}", self.said());
        }
        let status = self.reap(deadline)?;
        let took = Duration::from_nanos(monotonic_ns() - start);
        Ok(Ended { lines: std::mem::take(&mut self.lines), stderr: self.said(), status, took })
    }

    fn reap(&mut self, deadline: u64) -> Result<ExitStatus> {
        // SAFETY: a system call without pointers; the descriptor is new and owned here alone.
        #[expect(unsafe_code, reason = "pidfd_open has no safe wrapper")]
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, self.child.id(), 0);
            ensure!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
            <File as std::os::fd::FromRawFd>::from_raw_fd(i32::try_from(fd)?)
        };
        ensure!(wait_readable(&pidfd, deadline)?, "the agent closed its lines but does not end: {}", self.said());
        self.child.wait().context("cannot wait for the agent")
    }

    /// Reads what there is, waiting for it until the deadline. False: nothing came, or nothing ever will.
    fn more(&mut self, deadline: u64) -> Result<bool> {
        if self.ended || !wait_readable(&self.stdout, deadline)? {
            return Ok(false);
        }
        let mut chunk = [0; 1 << 16];
        match self.stdout.read(&mut chunk) {
            Ok(0) => {
                self.ended = true;
                ensure!(self.pending.is_empty(), "a line without an end: {}", String::from_utf8_lossy(&self.pending));
                Ok(false)
            }
            Ok(count) => {
                self.pending.extend_from_slice(&chunk[..count]);
                self.take_lines()?;
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error).context("cannot read the agent's lines"),
        }
    }

    fn take_lines(&mut self) -> Result<()> {
        let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.pending.split_off(end + 1);
        let whole = std::mem::replace(&mut self.pending, rest);
        for line in std::str::from_utf8(&whole).context("a line is not UTF-8")?.lines() {
            self.lines.push(Line::read(line)?);
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command of `faultline` to its end.
///
/// # Errors
/// It cannot be started, does not end, or prints a line that breaks the schema.
pub fn run(args: &[&str]) -> Result<Ended> {
    let mut command = Command::new(program::faultline()?);
    command.args(args);
    run_command(command)
}

/// Runs a prepared command to its end, its lines checked.
///
/// # Errors
/// As [`run`].
pub fn run_command(command: Command) -> Result<Ended> {
    Agent::spawn(command)?.wait()
}

/// CLOCK_MONOTONIC nanoseconds of a moment from now.
pub fn after(duration: Duration) -> u64 {
    monotonic_ns() + u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}

/// Waits until a descriptor is readable or has hung up; false when the deadline passed first.
///
/// # Errors
/// What poll(2) says.
pub fn wait_readable(fd: &File, deadline: u64) -> Result<bool> {
    loop {
        let left_ms = deadline.saturating_sub(monotonic_ns()).div_ceil(1_000_000);
        let timeout = PollTimeout::try_from(i32::try_from(left_ms).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno).with_context(|| format!("poll of descriptor {}", fd.as_raw_fd())),
        }
    }
}
