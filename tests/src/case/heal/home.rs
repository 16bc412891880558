//! Where an agent of a case lives. In: a name, then policies. Out: agents and other commands of `faultline` whose journals
//! are all in one folder, which goes with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{agent::Agent, program};

/// A folder for a policy, journals and whatever an agent leaves.
#[derive(Debug)]
pub struct Home(PathBuf);

impl Home {
    /// Makes it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("faultline-heal-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A command of `faultline` whose journals are here.
    ///
    /// # Errors
    /// There is no program.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = Command::new(program::faultline()?);
        command.args(words).env("STATE_DIRECTORY", &self.0).env("RUNTIME_DIRECTORY", &self.0);
        Ok(command)
    }

    /// An agent in mode `act` with this policy.
    ///
    /// # Errors
    /// It does not start.
    pub fn agent(&self, policy: &str, bus: Option<&str>) -> Result<Agent> {
        let file = self.0.join("policy.toml");
        fs::write(&file, policy).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = self.command(&["run", "--json", "--no-flight", "--config"])?;
        command.arg(&file).env("FAULTLINE_BUS", bus.unwrap_or("unix:path=/nonexistent"));
        Agent::start_command(command)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
