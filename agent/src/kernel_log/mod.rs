//! The kernel's log: lines of `/dev/kmsg` or of a console in, faults out. All of it pure.
//!
//! It is the fallback where no hook tells of a fault (an oops, a lock-up, a degraded array), and the cross-check
//! where one does. [`record`] and [`console`] read what the kernel printed, [`rules`] name a line, [`report`] folds
//! the lines of one report into one [`report::Verdict`] with the [`subject`] that the kernel named.
//!
//! `faultline-eval kmsg` scores it on labelled logs, `faultline-eval kmsg-negatives` on logs without a fault.

#![forbid(unsafe_code)]

pub mod console;
mod pattern;
pub mod record;
pub mod report;
pub mod rules;
pub mod subject;

/// Pushes any bytes through everything: once as records of `/dev/kmsg`, once as console text. For fuzzing: it must
/// return, whatever the bytes. How many verdicts came out.
pub fn exercise(folder: &mut report::Folder, bytes: &[u8]) -> usize {
    let mut told = 0;
    let mut count = |step: report::Told| told += usize::from(step.begun.is_some()) + usize::from(step.fact.is_some());
    let mut sequence = record::Sequence::default();
    let mut buffer = [0; record::MAX_RECORD];
    if let Ok(read) = record::parse(bytes) {
        sequence.observe(read.seq);
        let text = record::unescape(read.text, &mut buffer);
        text.split(|&byte| byte == b'\n').for_each(|line| count(folder.push(&console::Line::of_record(&read, line))));
        let _ = read.value("DEVICE");
    }
    for line in bytes.split(|&byte| byte == b'\n') {
        console::lines(line).for_each(|line| count(folder.push(&line)));
    }
    let _ = folder.finish();
    told
}
