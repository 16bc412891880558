//! `/dev/kmsg` as a source. In: what the kernel prints from now on. Out: facts, one for each report that begins or ends and
//! for each one-line fact; what an attached sensor feels better is left to it. Runs as a blocking task.
//!
//! The lines are judged here and not in the engine: a report is a hundred lines, the rules cost more than all other inputs
//! together, and the reactor must not pay for a console that is flooded. What the engine hears is recorded.
//!
//! Source: Documentation/ABI/testing/dev-kmsg. A read that finds its record overwritten says EPIPE; the next one goes on with
//! the oldest that is left, and the gap in the numbers tells how many are missing.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::queue::{Doorbell, FactSender};
use crate::{
    clock,
    kernel_log::{
        console::Line,
        record::{self, Sequence},
        report::{Folder, Told, Verdict},
        rules::Rules,
    },
    model::input::{Fact, KernelReport},
};

const PATH: &str = "/dev/kmsg";

/// Why the kernel's log is not read.
#[derive(Debug, thiserror::Error)]
pub enum KmsgError {
    /// It cannot be opened.
    #[error("cannot read {PATH}: {0}; grant CAP_SYSLOG, or set kernel.dmesg_restrict=0")]
    Open(#[source] std::io::Error),
    /// The table of rules is broken.
    #[error("the rules for the kernel's log cannot be built: {0}; this is a mistake of this build")]
    Rules(#[from] aho_corasick::BuildError),
    /// No doorbell.
    #[error("cannot make a doorbell: {0}; raise the limit of open files")]
    Bell(#[from] nix::Error),
}

/// The open log and what judges it.
pub struct Kmsg {
    file: File,
    folder: Folder,
    sequence: Sequence,
    /// Rules whose faults an attached sensor tells.
    elsewhere: Vec<&'static str>,
}

/// Ends the task.
#[derive(Clone, Debug)]
pub struct Control {
    stop: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
}

impl Control {
    /// A task that goes on.
    ///
    /// # Errors
    /// What eventfd(2) says.
    pub fn new() -> nix::Result<Self> {
        Ok(Self { stop: Arc::default(), bell: Doorbell::new()? })
    }

    /// Ends it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring_always();
    }
}

impl Kmsg {
    /// Opens the log behind its last line. `elsewhere` names the rules that are left to others.
    ///
    /// # Errors
    /// [`KmsgError`].
    pub fn open(elsewhere: Vec<&'static str>) -> Result<Self, KmsgError> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(PATH);
        let mut file = opened.map_err(KmsgError::Open)?;
        file.seek(SeekFrom::End(0)).map_err(KmsgError::Open)?;
        Ok(Self { file, folder: Folder::new(Rules::new()?), sequence: Sequence::default(), elsewhere })
    }

    /// Reads until stopped. Blocking.
    pub fn run(mut self, control: &Control, facts: &FactSender) {
        while !control.stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(self.file.as_fd(), PollFlags::POLLIN),
                PollFd::new(control.bell.as_fd(), PollFlags::POLLIN),
            ];
            let _ = poll(&mut fds, PollTimeout::NONE);
            control.bell.clear();
            self.read_all(facts);
        }
    }

    fn read_all(&mut self, facts: &FactSender) {
        let mut buffer = [0; record::MAX_RECORD];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => self.take(&buffer[..count], facts),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Overwritten before it was read: the gap is counted with the next record.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], facts: &FactSender) {
        let Ok(read) = record::parse(bytes) else { return };
        let lost = self.sequence.observe(read.seq);
        if lost > 0 {
            tracing::warn!(lost, "lines of the kernel's log were overwritten before they could be read");
        }
        let mut plain = [0; record::MAX_RECORD];
        for text in record::unescape(read.text, &mut plain).split(|byte| *byte == b'\n') {
            let told = self.folder.push(&Line::of_record(&read, text));
            for report in reports(&told).filter(|report| !self.elsewhere.iter().any(|rule| *rule == report.rule)) {
                if !facts.send(Fact::KernelLog(report)) {
                    tracing::warn!("the reactor is behind; a report of the kernel's log was dropped");
                }
            }
        }
    }
}

/// The facts of one line.
fn reports(told: &Told) -> impl Iterator<Item = KernelReport> {
    let now_ns = clock::monotonic_ns();
    let report = move |verdict: Verdict, ended: bool| KernelReport {
        now_ns,
        rule: verdict.rule.to_owned(),
        severity: verdict.severity,
        subject: verdict
            .subject
            .map_or(String::new(), |subject| String::from_utf8_lossy(subject.name.as_bytes()).into_owned()),
        number: verdict.subject.and_then(|subject| subject.number),
        lines: verdict.lines,
        panicked: verdict.panicked,
        ended,
    };
    let begun = told.begun.or(told.fact).map(move |verdict| report(verdict, false));
    told.ended.map(move |verdict| report(verdict, true)).into_iter().chain(begun)
}

/// Rules that stand for what the sensors of these numbers feel themselves.
pub fn felt_elsewhere(attached: impl Fn(u16) -> bool) -> Vec<&'static str> {
    use faultline_common::sensor::{BLOCK_IO, OOM_KILL, PROCESS_EXIT, TASK_HANG};
    const RULES: [(u16, &[&str]); 4] = [
        (OOM_KILL, &["oom_kill", "memcg_oom_kill"]),
        (TASK_HANG, &["hung_task"]),
        (BLOCK_IO, &["block_error", "block_protection", "scsi_error"]),
        (PROCESS_EXIT, &["user_fault"]),
    ];
    RULES.iter().filter(|(sensor, _)| attached(*sensor)).flat_map(|(_, rules)| rules.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_log::rules::RULES;

    #[test]
    fn what_is_felt_elsewhere_are_rules() {
        for name in felt_elsewhere(|_| true) {
            assert!(RULES.iter().flat_map(|rules| rules.iter()).any(|rule| rule.name == name), "{name}");
        }
        assert!(felt_elsewhere(|_| false).is_empty(), "without the sensors the log is all there is");
    }

    #[test]
    fn a_report_begins_once_and_ends_with_its_count() {
        let mut folder = Folder::new(Rules::new().expect("rules"));
        let line = |at_s: u64, text: &'static str| Line {
            at_ns: Some(at_s * 1_000_000_000),
            text: text.as_bytes(),
            ..Line::default()
        };
        let mut said = Vec::new();
        for line in [
            line(5, "BUG: kernel NULL pointer dereference, address: 0000000000000010"),
            line(5, "Oops: 0002 [#1] SMP"),
            line(5, "Call Trace:"),
            line(30, "eth0: something else"),
        ] {
            said.extend(reports(&folder.push(&line)));
        }
        let rules: Vec<_> = said.iter().map(|report| (report.rule.as_str(), report.ended, report.lines)).collect();
        assert_eq!(rules, [("null_dereference", false, 1), ("null_dereference", true, 3)]);
    }
}
