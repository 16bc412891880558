//! Helper processes and their few words. In: a role; out: a child that says what it did, line by line, and does as ordered.
//!
//! A helper is this binary started again with the hidden sub-command `drill-helper ROLE ARGS` (a fork of a process that may
//! have threads could not allocate safely). It says `ready X`, `injected NS`, `done X`, `skip REASON` or `failed REASON` on
//! its standard output, takes the order `go` from its standard input, and ends when that is closed. It always leaves with
//! status 0 unless dying is its job: abnormal ends of helpers would look like a crash loop of the agent's own executable.

use std::ffi::CString;
use std::io::{self, BufRead, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::DrillError;
use super::child::{OnParentDeath, PidFd, spawn};
use super::lines::Lines;

/// What a helper says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Prepared; the text names what was made.
    Ready(String),
    /// The first harm was done at this CLOCK_MONOTONIC nanosecond.
    Injected(u64),
    /// All harm is done.
    Done(String),
}

/// A running helper, as its parent sees it.
#[derive(Debug)]
pub struct Helper {
    /// The role, for messages.
    pub role: &'static str,
    child: Child,
    pidfd: PidFd,
    lines: Lines,
    orders: Option<ChildStdin>,
}

impl Helper {
    /// Starts the helper for `role`; it is killed when the calling thread dies.
    pub fn start(role: &'static str, args: &[&str]) -> Result<Self, DrillError> {
        let mut command = command(role, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let fate = OnParentDeath::Signal(Signal::SIGKILL);
        let mut child = spawn(&mut command, fate).map_err(DrillError::system("start the helper", role))?;
        let orders = child.stdin.take();
        let stdout = child.stdout.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe));
        let parts = stdout.and_then(Lines::new).and_then(|lines| Ok((lines, PidFd::open(child.id())?)));
        match parts {
            Ok((lines, pidfd)) => Ok(Self { role, child, pidfd, lines, orders }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(DrillError::system("watch the helper", role)(error))
            }
        }
    }

    /// The process id; valid until the helper was waited for.
    pub fn pid(&self) -> Pid {
        pid_of(&self.child)
    }

    /// Readable when the helper said something.
    pub fn lines(&mut self) -> &mut Lines {
        &mut self.lines
    }

    /// Readable when the helper has ended.
    pub fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Gives an order.
    pub fn order(&mut self, order: &str) -> Result<(), DrillError> {
        let sent = match &mut self.orders {
            Some(pipe) => writeln!(pipe, "{order}"),
            None => Err(io::Error::from(io::ErrorKind::BrokenPipe)),
        };
        sent.map_err(DrillError::system("give an order to the helper", self.role))
    }

    /// Tells the helper to remove what it made and to end.
    pub fn dismiss(&mut self) {
        self.orders = None;
    }

    /// Collects the exit status of a helper whose pidfd is readable.
    pub fn reap(&mut self) -> Result<std::process::ExitStatus, DrillError> {
        self.child.wait().map_err(DrillError::system("wait for the helper", self.role))
    }
}

impl Drop for Helper {
    /// The way of errors and Ctrl-C: an ended helper is only reaped, a living one killed first.
    fn drop(&mut self) {
        self.orders = None;
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The process id of a child that was not waited for.
fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// This very binary in the given role. The link names the running file even after an upgrade replaced it on disk.
pub fn command(role: &str, args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("drill-helper").arg(role).args(args);
    command
}

/// Reads one line of a helper. `skip` and `failed` become the errors they stand for.
pub fn parse(role: &'static str, line: &str) -> Result<Word, DrillError> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let unknown = || DrillError::Protocol { role, said: line.to_owned(), wanted: "a known word" };
    match verb {
        "ready" => Ok(Word::Ready(rest.to_owned())),
        "injected" => rest.parse().map(Word::Injected).map_err(|_| unknown()),
        "done" => Ok(Word::Done(rest.to_owned())),
        "skip" => Err(DrillError::unavailable(rest)),
        "failed" => Err(DrillError::Helper { role, message: rest.to_owned() }),
        _ => Err(unknown()),
    }
}

/// Child side: says one word to the parent.
pub fn say(word: &Word) -> Result<(), DrillError> {
    match word {
        Word::Ready(what) => say_line(&format!("ready {what}")),
        Word::Injected(ns) => say_line(&format!("injected {ns}")),
        Word::Done(what) => say_line(&format!("done {what}")),
    }
}

/// Child side: says why it cannot do its part.
pub fn say_error(error: &DrillError) -> Result<(), DrillError> {
    let verb = if matches!(error, DrillError::Unavailable { .. }) { "skip" } else { "failed" };
    say_line(&format!("{verb} {}", error.to_string().replace('\n', "; ")))
}

fn say_line(line: &str) -> Result<(), DrillError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(DrillError::system("write to", "the drill"))
}

/// Child side: waits for the next order; false when the parent wants it to end.
pub fn hear() -> Result<bool, DrillError> {
    let mut line = String::new();
    let count = io::stdin().lock().read_line(&mut line).map_err(DrillError::system("read from", "the drill"))?;
    Ok(count > 0)
}

/// Child side: takes the name under which `ps` and the sensors show this process.
pub fn take_name(name: &str) -> Result<(), DrillError> {
    let text = CString::new(name).unwrap_or_default();
    prctl::set_name(&text).map_err(DrillError::system("take the process name", name))
}

#[cfg(test)]
mod tests {
    use super::{DrillError, Word, parse};

    #[test]
    fn words_are_read_back() {
        assert_eq!(parse("disk", "ready loop3").expect("word"), Word::Ready("loop3".into()));
        assert_eq!(parse("disk", "injected 42").expect("word"), Word::Injected(42));
        assert_eq!(parse("disk", "done").expect("word"), Word::Done(String::new()));
    }

    #[test]
    fn refusals_are_told_from_failures() {
        assert!(
            matches!(parse("disk", "skip no /dev/fuse"), Err(DrillError::Unavailable { reason }) if reason == "no /dev/fuse")
        );
        assert!(matches!(parse("disk", "failed a b"), Err(DrillError::Helper { message, .. }) if message == "a b"));
        assert!(matches!(parse("disk", "injected x"), Err(DrillError::Protocol { .. })));
        assert!(matches!(parse("disk", "hello"), Err(DrillError::Protocol { .. })));
    }
}
