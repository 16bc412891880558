//! `record`: labelled recordings of real faults. In: a folder. Out: for each fault a recording, the verdicts of the
//! live run as its golden, and the injector's truth.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use faultline::clock::monotonic_ns;
use nix::sys::signal::Signal;

use super::{observe::missing, step};
use crate::{
    agent::{self, Agent},
    inject,
    recordings::Labelled,
    truth::Truth,
};

/// Faults clear and close at once, so that recordings are short and hold a whole life.
const CONFIGURATION: &str = "[faults]\nclear_after = \"1s\"\nclose_after = \"1s\"\n";

/// Records each of these faults into the folder; all when none is named.
///
/// # Errors
/// A fault could not be made, was not felt, or does not replay as it ran.
pub fn record(folder: &Path, names: &[String]) -> Result<()> {
    let start = monotonic_ns();
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for name in inject::RECORDED.iter().filter(|name| names.is_empty() || names.iter().any(|n| n == *name)) {
        let labelled = one(folder, name).with_context(|| format!("recording {name}"))?;
        let bytes = fs::metadata(&labelled.path)?.len();
        step(start, &format!("{}: {bytes} bytes, {} lines", labelled.path.display(), labelled.golden.lines().count()));
    }
    Ok(())
}

fn one(folder: &Path, name: &str) -> Result<Labelled> {
    let mut target = inject::prepare(name)?;
    let path = folder.join(format!("{name}.flt"));
    let config = std::env::temp_dir().join(format!("faultline-case-{}.toml", std::process::id()));
    fs::write(&config, CONFIGURATION)?;
    let (file, config_file) = (path.display().to_string(), config.display().to_string());
    let mut agent = Agent::start(&["--record", &file, "--config", &config_file])?;
    let expected = target.inject(&missing(&agent, target.sensor()))?;
    let closed = |line: &serde_json::Value| expected.is(line) && line["state"] == "closed";
    agent.wait_for(&format!("end of {}", expected.describe()), closed)?;
    let ended = agent.stop(Signal::SIGTERM)?;
    fs::remove_file(&config)?;
    ensure!(ended.code()? == 0, "the agent ended with {}: {}", ended.status, ended.stderr);
    let truth = Truth { injector: name.into(), kernel: inject::kernel_release()?, faults: vec![expected] };
    let labelled = Labelled { path, golden: agent::verdicts(&ended.lines), truth };
    labelled.judge()?;
    labelled.truth.faults[0].judge_event(&ended.lines)?;
    labelled.save()?;
    labelled.replay(|_| {})?;
    Ok(labelled)
}
