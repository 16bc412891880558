//! `faultline-eval`: scores of the pure parts on labelled data. In: what to score and where the data are. Out: figures,
//! the worst misses; exit status 0 when every bar is met, 1 when not, 2 for bad arguments.

use std::{io::Write, path::Path, process::ExitCode};

use anyhow::Result;
use faultline_tests::eval::kmsg;

const USAGE: &str = "usage: faultline-eval kmsg DIR [--json] | faultline-eval kmsg-negatives FILE...";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["kmsg", folder] => kmsg::run(Path::new(folder), false),
        ["kmsg", folder, "--json"] | ["kmsg", "--json", folder] => kmsg::run(Path::new(folder), true),
        ["kmsg-negatives", _, ..] => kmsg::negatives(&args[1..]),
        _ => return say(USAGE, 2),
    };
    print(done)
}

fn print(done: Result<(String, bool)>) -> ExitCode {
    match done {
        Ok((text, good)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => say(&format!("faultline-eval: {error:#}"), 1),
    }
}

fn say(text: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(status)
}
