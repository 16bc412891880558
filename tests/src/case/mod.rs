//! Cases that need a kernel of their own: what `faultline-case` runs inside a VM. In: a sub-command. Out: steps on
//! standard output, an error at the first thing that is not as it should be.
//!
//! The same program runs on a machine with the tools and modules, but a VM is where it is safe and quiet: here
//! "no other fault" can be asked for.

pub mod executor;
pub mod flood;
pub mod guardian;
pub mod heal;
pub mod health;
pub mod observe;
pub mod record;
pub mod ring;
pub mod rivals;
pub mod systemd;

use std::{io::Write, path::Path};

use anyhow::{Result, ensure};
use faultline::clock::monotonic_ns;

use crate::recordings;

/// Says what was done, with the seconds since `start`.
fn step(start: u64, what: &str) {
    let seconds = (monotonic_ns() - start) as f64 / 1e9;
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stdout(), "{seconds:7.1} s  {what}");
}

/// Replays everything in a folder twice and compares byte for byte.
///
/// # Errors
/// There is nothing, or the first difference.
pub fn replay(folder: &Path) -> Result<()> {
    let start = monotonic_ns();
    let all = recordings::all(folder)?;
    ensure!(!all.is_empty(), "no recording below {}", folder.display());
    for labelled in &all {
        labelled.judge()?;
        for _ in 0..2 {
            labelled.replay(|_| {})?;
        }
        step(start, &format!("{} replays to its golden", labelled.path.display()));
    }
    Ok(())
}

/// Makes the goldens anew from replays, after a deliberate change of the lines; each must still agree with its truth.
///
/// # Errors
/// A replay fails, or a new golden contradicts its truth.
pub fn bless(folder: &Path) -> Result<()> {
    let start = monotonic_ns();
    for mut labelled in recordings::all(folder)? {
        let ended = recordings::replay(&labelled.path, |_| {})?;
        ensure!(ended.code()? == 0, "{}: {}", labelled.path.display(), ended.stderr);
        labelled.golden = crate::agent::verdicts(&ended.lines);
        labelled.judge()?;
        labelled.save()?;
        step(start, &format!("{} blessed", labelled.path.display()));
    }
    Ok(())
}
