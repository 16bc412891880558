//! Recordings of real faults, each with its golden and its truth: `KERNEL/NAME.flt`, `.golden.jsonl`, `.truth.json`.
//!
//! Made in VMs by `cargo xtask vm --kernel 5.10.218 --kernel 6.1 --kernel 6.12 --out tests/recordings -- faultline-case record /out`.
//! A golden holds the `fault`, `action` and `loss` lines of the live run, not of a replay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::{self, Ended, Line},
    truth::Truth,
};

/// The committed ones.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings");

/// One recording with what belongs to it.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The recording.
    pub path: PathBuf,
    /// The lines that its replay must print.
    pub golden: String,
    /// What really happened.
    pub truth: Truth,
}

impl Labelled {
    /// Reads golden and truth of a recording.
    ///
    /// # Errors
    /// One of them is missing or no JSON.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |ending: &str| {
            let beside = path.with_extension(ending);
            fs::read_to_string(&beside).with_context(|| format!("cannot read {}", beside.display()))
        };
        let truth =
            serde_json::from_str(&read("truth.json")?).with_context(|| format!("truth of {}", path.display()))?;
        Ok(Self { path: path.to_owned(), golden: read("golden.jsonl")?, truth })
    }

    /// Writes golden and truth beside the recording.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self) -> Result<()> {
        let write = |ending: &str, text: &str| {
            let beside = self.path.with_extension(ending);
            fs::write(&beside, text).with_context(|| format!("cannot write {}", beside.display()))
        };
        write("golden.jsonl", &self.golden)?;
        write("truth.json", &format!("{}\n", serde_json::to_string_pretty(&self.truth)?))
    }

    /// Golden against truth.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn judge(&self) -> Result<()> {
        let lines: Vec<_> = self.golden.lines().map(Line::read).collect::<Result<_>>()?;
        self.truth.judge(&lines).with_context(|| format!("the golden of {} contradicts its truth", self.path.display()))
    }

    /// Replays it and compares byte for byte.
    ///
    /// # Errors
    /// The replay fails or differs.
    pub fn replay(&self, prepare: impl FnOnce(&mut std::process::Command)) -> Result<()> {
        let ended = replay(&self.path, prepare)?;
        ensure!(ended.code()? == 0, "replay of {} ended with {}: {}", self.path.display(), ended.status, ended.stderr);
        let printed = agent::verdicts(&ended.lines);
        let same = printed == self.golden;
        ensure!(same, "{} replays differently\n--- golden\n{}--- replay\n{printed}", self.path.display(), self.golden);
        ended.summary().map(drop)
    }
}

/// Runs `faultline replay FILE --json`.
///
/// # Errors
/// It cannot be started or prints a line that breaks the schema.
pub fn replay(path: &Path, prepare: impl FnOnce(&mut std::process::Command)) -> Result<Ended> {
    let mut command = std::process::Command::new(crate::program::faultline()?);
    command.arg("replay").arg(path).arg("--json");
    prepare(&mut command);
    agent::run_command(command)
}

/// All recordings below a folder, in the order of their paths.
///
/// # Errors
/// A folder cannot be read, or a recording lacks its golden or truth.
pub fn all(folder: &Path) -> Result<Vec<Labelled>> {
    let mut found = Vec::new();
    search(folder, &mut found)?;
    found.sort();
    found.iter().map(|path| Labelled::open(path)).collect()
}

fn search(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "flt") {
            found.push(path);
        }
    }
    Ok(())
}
