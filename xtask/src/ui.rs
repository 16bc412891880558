//! What a developer sees while a command runs: one line per step with its time, on standard error.
//!
//! Standard output belongs to the program that a command runs (`run --json`, `vm -- COMMAND`), so progress never mixes with it.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Prints one progress line; a closed standard error is not a reason to fail.
pub fn say(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "{}", line.as_ref());
}

/// Prints an error with its whole chain of causes.
pub fn error(error: &anyhow::Error) {
    say(format!("error: {error:#}"));
}

/// A running clock for a step.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    #[expect(clippy::disallowed_methods, reason = "xtask is no part of the agent and has no use for its clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// The elapsed time as `1.2 s`.
    pub fn text(self) -> String {
        seconds(self.elapsed())
    }
}

/// `1.2 s`, the one way in which xtask prints a duration.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Says `what ...`, does it, and says how long it took.
///
/// # Errors
/// The error of `work`, unchanged.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(format!("  {what} ..."));
    let clock = Clock::start();
    let value = work()?;
    say(format!("  {what}: done in {}", clock.text()));
    Ok(value)
}
