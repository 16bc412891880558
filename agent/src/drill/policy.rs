//! The drill's own policy, for `drill --heal`. In: the name of the target that can be healed. Out: how to start an agent in mode
//! `act` whose scope is that one throw-away cgroup, and whose journals are in a folder that goes with the drill.

use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::Home;
use super::janitor::Janitor;
use super::{AgentCommand, DrillError, PREFIX};

/// Where the folder is made: on memory, and gone with the next boot at the latest.
const PARENT: &str = "/run";

/// The agent of `drill --heal`, and its folder.
pub fn healing_agent(janitor: &mut Janitor) -> Result<(AgentCommand, PathBuf), DrillError> {
    let name = format!("{PREFIX}{}", std::process::id());
    let folder = Path::new(PARENT).join(&name);
    janitor.tell_of_folder(&folder)?;
    let file = folder.join("policy.toml");
    let text = text(&Home::find()?.path_of(&name));
    let made = std::fs::create_dir(&folder).and_then(|()| std::fs::write(&file, text));
    made.map_err(DrillError::system("make", file.display().to_string()))?;
    let words = ["run", "--mode", "act", "--json", "--no-flight", "--config"];
    let args = words.into_iter().map(Into::into).chain([file.into()]).collect();
    Ok((AgentCommand { args, home: Some(folder.clone()), ..AgentCommand::default() }, folder))
}

/// Kill what is left in the cgroup of the drill `oom`; nothing else is in scope.
fn text(cgroup: &str) -> String {
    format!(
        "[scope]\ncgroups = [\"{cgroup}\"]\n\n[[plan]]\non = \"oom_kill\"\n\
        steps = [{{ verb = \"kill\", verify_for = \"100ms\" }}]\n\n\
        [budget.blast_radius]\ncount = 1\nshare_percent = 100\n"
    )
}

/// Folders of drills, with the process id in their name.
pub fn leftovers() -> Vec<(PathBuf, u32)> {
    let entries = std::fs::read_dir(PARENT).into_iter().flatten().flatten();
    let owner = |path: PathBuf| {
        let pid = path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
        Some((path, pid))
    };
    entries.filter_map(|entry| owner(entry.path())).collect()
}

/// Removes a folder; one that is gone already is fine.
pub fn remove(path: &Path) -> Result<(), DrillError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DrillError::system("remove", path.display().to_string())(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn the_policy_is_valid_and_names_one_cgroup() {
        let config = Config::parse(&super::text("/a/faultline-drill-7"), "drill").expect("a valid policy");
        assert_eq!(config.policy.scope.cgroups, ["/a/faultline-drill-7"]);
        assert!(config.policy.scope.units.is_empty() && config.policy.plans.len() == 1);
    }
}
