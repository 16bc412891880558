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
/// Silence that ends a report, ms: as long as the folder waits.
const SILENCE_MS: u16 = 10_000;

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
    /// The first word about the report that is open: its end is told under the same name.
    begun: Option<KernelReport>,
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
        Ok(Self { file, folder: Folder::new(Rules::new()?), sequence: Sequence::default(), begun: None, elsewhere })
    }

    /// Reads until stopped. Blocking.
    pub fn run(mut self, control: &Control, facts: &FactSender) {
        while !control.stop.load(Ordering::Acquire) {
            let mut fds = [
                PollFd::new(self.file.as_fd(), PollFlags::POLLIN),
                PollFd::new(control.bell.as_fd(), PollFlags::POLLIN),
            ];
            let timeout = if self.folder.is_open() { PollTimeout::from(SILENCE_MS) } else { PollTimeout::NONE };
            let silent = poll(&mut fds, timeout) == Ok(0);
            control.bell.clear();
            self.read_all(facts);
            if silent {
                self.end(facts);
            }
        }
        self.end(facts);
    }

    /// The report that is open is over: nothing more was said, or the agent ends.
    fn end(&mut self, facts: &FactSender) {
        let told = Told { ended: self.folder.finish(), ..Told::default() };
        self.tell(&told, facts);
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
            let _ = facts.send(Fact::LogLost { now_ns: clock::monotonic_ns(), count: lost });
        }
        let mut plain = [0; record::MAX_RECORD];
        for text in record::unescape(read.text, &mut plain).split(|byte| *byte == b'\n') {
            let told = self.folder.push(&Line::of_record(&read, text));
            self.tell(&told, facts);
        }
    }

    fn tell(&mut self, told: &Told, facts: &FactSender) {
        for report in reports(told, &mut self.begun) {
            if self.elsewhere.iter().any(|rule| *rule == report.rule) {
                continue;
            }
            if !facts.send(Fact::KernelLog(report)) {
                tracing::warn!("the reactor is behind; a report of the kernel's log was dropped");
            }
        }
    }
}

/// The facts of one line. A report that was told vaguely first and turns out to be something worse is, at its end, a fault of
/// its own; else its end only adds to what was told.
fn reports(told: &Told, open: &mut Option<KernelReport>) -> Vec<KernelReport> {
    let mut all = Vec::new();
    if let Some(verdict) = told.ended
        && let Some(begun) = open.take()
    {
        let ended = report(&verdict);
        all.push(KernelReport {
            rule: begun.rule.clone(),
            subject: begun.subject,
            ended: true,
            became: ended.rule.clone(),
            ..ended.clone()
        });
        if verdict.rule != begun.rule && ended.severity > begun.severity {
            all.push(ended);
        }
    }
    if let Some(verdict) = told.begun {
        *open = Some(report(&verdict));
    }
    all.extend(told.begun.or(told.fact).as_ref().map(report));
    all
}

fn report(verdict: &Verdict) -> KernelReport {
    let name = verdict.subject.map(|subject| String::from_utf8_lossy(subject.name.as_bytes()).into_owned());
    KernelReport {
        now_ns: clock::monotonic_ns(),
        rule: verdict.rule.to_owned(),
        severity: verdict.severity,
        subject: name.unwrap_or_default(),
        number: verdict.subject.and_then(|subject| subject.number),
        lines: verdict.lines,
        panicked: verdict.panicked,
        ended: false,
        became: verdict.rule.to_owned(),
    }
}

/// Rules that stand for what the sensors of these numbers feel themselves.
pub fn felt_elsewhere(attached: impl Fn(u16) -> bool) -> Vec<&'static str> {
    use faultline_common::sensor::{BLOCK_IO, OOM_KILL, TASK_HANG};
    const RULES: [(u16, &[&str]); 3] = [
        (OOM_KILL, &["oom_kill", "memcg_oom_kill"]),
        (TASK_HANG, &["hung_task"]),
        (BLOCK_IO, &["block_error", "block_protection", "scsi_error"]),
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
        let (mut said, mut open) = (Vec::new(), None);
        for line in [
            line(5, "BUG: kernel NULL pointer dereference, address: 0000000000000010"),
            line(5, "Oops: 0002 [#1] SMP"),
            line(5, "CPU: 0 PID: 77 Comm: insmod Tainted: G"),
            line(30, "eth0: something else"),
        ] {
            said.extend(reports(&folder.push(&line), &mut open));
        }
        let told: Vec<_> = said.iter().map(|r| (r.rule.as_str(), r.subject.as_str(), r.ended, r.lines)).collect();
        assert_eq!(told, [("null_dereference", "", false, 1), ("null_dereference", "", true, 3)], "the key stays");
        assert_eq!(said[1].number, Some(77), "what the trace names comes with the end");
    }

    #[test]
    fn a_warning_that_turns_out_to_be_corruption_is_told_as_such() {
        let mut folder = Folder::new(Rules::new().expect("rules"));
        let (mut said, mut open) = (Vec::new(), None);
        let line = |at_s: u64, text: &'static str| Line {
            at_ns: Some(at_s * 1_000_000_000),
            text: text.as_bytes(),
            ..Line::default()
        };
        for line in [
            line(5, "WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2"),
            line(5, "refcount_t: underflow; use-after-free."),
            line(30, "eth0: something else"),
        ] {
            said.extend(reports(&folder.push(&line), &mut open));
        }
        let told: Vec<_> = said.iter().map(|report| (report.rule.as_str(), report.ended)).collect();
        assert_eq!(told, [("warning", false), ("warning", true), ("refcount", false)]);
        assert_eq!(said[1].became, "refcount");
    }
}
