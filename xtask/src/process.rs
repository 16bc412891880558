//! Running other programs: a `Command` in, its output or an error that shows the command line and the last lines it wrote out.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How many trailing lines of a failed program are worth showing in an error.
const TAIL_LINES: usize = 15;

/// The command line as one would type it, for messages.
pub fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of `text`.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs silently and returns standard output.
///
/// # Errors
/// The program is missing, was killed or returned non-zero; the message carries the tail of what it wrote.
pub fn output(command: &mut Command) -> Result<String> {
    let done = capture(command)?;
    if !done.status.success() {
        let text = [done.stdout.as_slice(), done.stderr.as_slice()].concat();
        bail!(
            "`{}` failed ({}):\n{}",
            describe(command),
            done.status,
            tail(&String::from_utf8_lossy(&text), TAIL_LINES)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs silently and returns everything, whatever the exit status.
///
/// # Errors
/// The program cannot be started.
pub fn capture(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", describe(command)))
}

/// Runs with the terminal's standard output and error.
///
/// # Errors
/// The program is missing, was killed or returned non-zero.
pub fn run(command: &mut Command) -> Result<()> {
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", describe(command));
    }
    Ok(())
}

/// The same command, ended by `signal` when this process ends, even when it is killed: nothing that we started may outlive us unseen.
/// Without util-linux's `setpriv` the command is left as it is. To be started from the main thread, whose end is what the kernel watches.
pub fn bound_to_us(signal: &str, inner: &Command) -> Command {
    let Some(setpriv) = find("setpriv") else { return prefixed(Command::new(inner.get_program()), inner) };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", signal]).arg(inner.get_program());
    prefixed(command, inner)
}

/// `outer` with the arguments and the environment of `inner`.
fn prefixed(mut outer: Command, inner: &Command) -> Command {
    outer.args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(folder) = inner.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}

/// The same command under `timeout`, in a process group of its own, so that whatever a hanging program started ends with it.
pub fn limited(inner: &Command, seconds: u32) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=10").arg(seconds.to_string()).arg(inner.get_program());
    prefixed(command, inner)
}

/// Finds a program on `PATH`, and in the `sbin` folders that a normal user's `PATH` leaves out.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
