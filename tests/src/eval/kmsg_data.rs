//! The labelled kernel logs: `index.csv` and `report/N` in, cases with their class out.
//!
//! A report is header lines (`TITLE:`, `TYPE:`), a blank line, the log, and perhaps what another program made of it
//! from `REPORT:` on, which is cut off. The class follows the table of the data's README by type, and by title
//! where the type is empty. The index lost the title of reports whose header begins with remarks: the
//! header itself counts then.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use faultline::model::fault::Class::{self, *};

/// What is true of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// No fault of the kernel.
    Negative,
    /// A fault of this class.
    Fault(Class),
    /// Not judged: the fuzzer's own failure.
    LeftOut,
}

/// One labelled log.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its number, the name of the file.
    pub number: u32,
    /// The type of the index, or `(title)` where only a title is given.
    pub kind: String,
    /// The title.
    pub title: String,
    /// What is true.
    pub label: Label,
    /// The log alone.
    pub log: Vec<u8>,
}

/// Reads all cases of a folder.
///
/// # Errors
/// The index or a report cannot be read.
pub fn load(folder: &Path) -> Result<Vec<Case>> {
    let index = fs::read_to_string(folder.join("index.csv")).context("the index of the data")?;
    index.lines().skip(1).map(|row| case(folder, &fields(row))).collect()
}

fn case(folder: &Path, row: &[String]) -> Result<Case> {
    let field = |at: usize| row.get(at).cloned().unwrap_or_default();
    let number = field(0).parse().with_context(|| format!("file number {:?} of the index", field(0)))?;
    let report = fs::read(folder.join("report").join(field(0))).with_context(|| format!("report {number}"))?;
    let (header, log) = split(&report);
    let of_header =
        |key: &str| header.lines().find_map(|line| Some(line.strip_prefix(key)?.trim().to_owned())).unwrap_or_default();
    let (mut kind, mut title) = (field(1), field(2));
    if title.is_empty() {
        (kind, title) = (of_header("TYPE:"), of_header("TITLE:"));
    }
    let label = label(&kind, &title);
    if kind.is_empty() && !title.is_empty() {
        kind = "(title)".into();
    }
    Ok(Case { number, kind, title, label, log: log.to_vec() })
}

/// Header and log, the log without what begins with `REPORT:`.
fn split(report: &[u8]) -> (String, &[u8]) {
    let blank = if report.starts_with(b"\n") {
        Some(0)
    } else {
        report.windows(2).position(|two| two == b"\n\n").map(|at| at + 1)
    };
    let (header, log) = report.split_at(blank.unwrap_or(0));
    let end = (0..log.len()).find(|&at| (at == 0 || log[at - 1] == b'\n') && log[at..].starts_with(b"REPORT:"));
    (String::from_utf8_lossy(header).into_owned(), &log[..end.unwrap_or(log.len())])
}

/// One row of comma-separated values, with quotes around fields that hold commas.
fn fields(row: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for letter in row.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().into_iter().for_each(|field| field.push(letter)),
        }
    }
    fields
}

/// The class by the table of the data's README.
fn label(kind: &str, title: &str) -> Label {
    Label::Fault(match kind {
        "SYZ_FAILURE" => return Label::LeftOut,
        "HANG" => ServiceUnavailability,
        "DoS" | "BUG" | "NULL-POINTER-DEREFERENCE" | "REBOOT" => NodeFailure,
        "MEMORY_SAFETY_BUG" | "REFCOUNT_WARNING" => DataCorruption,
        "LEAK" => ResourceExhaustion,
        "WARNING" | "LOCKDEP" | "ATOMIC_SLEEP" | "UBSAN" => PerformanceDegradation,
        _ if kind.starts_with("KASAN-NULL-") => NodeFailure,
        _ if kind.starts_with("KASAN-") || kind.starts_with("KFENCE-") => DataCorruption,
        _ if kind.starts_with("KMSAN-") || kind.starts_with("KCSAN-") => PerformanceDegradation,
        _ if title.is_empty() => return Label::Negative,
        _ => by_title(title),
    })
}

/// Titles without a type: bad pages and counters and slab objects are corruption, lock checkers' words and warnings
/// are degradation; every other `BUG:` is a BUG.
fn by_title(title: &str) -> Class {
    let any = |words: &[&str]| words.iter().any(|word| title.contains(word));
    if any(&["Bad page", "Bad rss-counter", "INFO: Freed in", "INFO: Allocated in"]) {
        DataCorruption
    } else if any(&["suspicious RCU", "non-static key", "leaked lock or atomic", "MAX_STACK_TRACE"])
        || title.starts_with("WARNING")
    {
        PerformanceDegradation
    } else {
        NodeFailure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_cut_into_its_parts() {
        let (header, log) = split(b"TITLE: x\nTYPE: HANG\n\nlog REPORT: no\nREPORT:\nother");
        assert_eq!((header.as_str(), log), ("TITLE: x\nTYPE: HANG\n", &b"\nlog REPORT: no\n"[..]));
        assert_eq!(split(b"\nlog").1, b"\nlog");
    }

    #[test]
    fn rows_may_hold_quotes() {
        assert_eq!(fields("1,,\"a, b\",Y"), ["1", "", "a, b", "Y"]);
    }

    #[test]
    fn labels_follow_the_table() {
        assert_eq!(label("", ""), Label::Negative);
        assert_eq!(label("SYZ_FAILURE", "SYZFAIL: x"), Label::LeftOut);
        assert_eq!(label("KASAN-NULL-POINTER-DEREFERENCE-READ", "x"), Label::Fault(NodeFailure));
        assert_eq!(label("KASAN-READ", "x"), Label::Fault(DataCorruption));
        assert_eq!(label("", "BUG: Bad rss-counter state"), Label::Fault(DataCorruption));
        assert_eq!(label("", "BUG: stack guard page was hit"), Label::Fault(NodeFailure));
        assert_eq!(label("", "INFO: suspicious RCU usage in x"), Label::Fault(PerformanceDegradation));
    }
}
