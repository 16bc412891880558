//! Faults on a kernel of one's own. In: a sub-command. Out: what was done, exit status 0 if all was as it should be.
//!
//! Runs as root inside `cargo xtask vm --kernel VERSION -- faultline-case observe`.

use std::{io::Write, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use faultline_tests::{case, inject, lock};

const USAGE: &str = "usage: faultline-case COMMAND
  observe             every fault is felt once with the right fields, through every rung; also doctor and a ring too large
  doctor              doctor says what is known of this kernel
  systemd             the client of the service manager against a real systemd
  flood               a million requests while the consumer is stopped, each in the books
  heal                real faults healed by a real policy, with the time to health by an independent prober
  guardian [N]        N agents (default 8) killed at random points of a freeze or a limit, and nothing is left of it
  rivals [quick] [json]  a greedy group ended by earlyoom, by faultline, by the kernel (VM only: `vm --earlyoom`)
  record DIR [FAULT]  make labelled recordings in DIR
  replay DIR          replay everything below DIR against its golden and truth
  bless DIR           make the goldens below DIR anew from replays";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "faultline-case: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let command = words.first().context(USAGE)?;
    let folder = || words.get(1).map(Path::new).context(USAGE);
    match command.as_str() {
        inject::child::RESTING => return inject::child::rest(words.get(1).context(USAGE)?),
        case::rivals::GREEDY => return case::rivals::greedy(&words[1..]),
        "replay" => return case::replay(folder()?),
        "bless" => return case::bless(folder()?),
        _ => {}
    }
    let _machine = lock::machine()?;
    match command.as_str() {
        "observe" => case::observe::observe(),
        "doctor" => case::health::doctor(),
        "systemd" => case::systemd::systemd(),
        "flood" => case::flood::flood(),
        "heal" => case::heal::heal(),
        "rivals" => case::rivals::rivals(&words[1..]),
        "guardian" => case::guardian::guardian(words.get(1).map_or(Ok(8), |n| n.parse()).context(USAGE)?),
        "record" => case::record::record(folder()?, &words[2..]),
        _ => bail!("{USAGE}"),
    }
}
