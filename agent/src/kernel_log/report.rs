//! From lines to faults: the kernel's messages in their order in, a [`Verdict`] per fault out.
//!
//! An oops or a KASAN report is a hundred lines, and many of them would fit a rule. The report is one fault, named
//! by its first line; later lines only count, with four exceptions: a [`Shape::Detail`] gives a vague report
//! its better name; a worse fault than the open one is a fault of its own; a panic is noted in the report that
//! led to it; and a [`Shape::Line`] is about something else and stands alone. A report ends after silence,
//! after too many lines or too long, or some lines after the kernel said `end trace`.
//!
//! The state is one open report and the last few one-line facts (so that a flood of I/O errors is one verdict in ten
//! seconds for each device, with its count). Each line costs the same, and time is the time in the lines.

use serde::Serialize;

use super::{
    console::Line,
    rules::{Rule, Rules, Shape, Subclass},
    subject::{Subject, of_trace},
};
use crate::model::fault::{Class, Severity};

/// Silence that ends a report, ns. A report over a slow serial line pauses for some seconds.
const SILENCE_NS: u64 = 10_000_000_000;
/// Longest report, ns.
const LONGEST_NS: u64 = 60_000_000_000;
/// Longest report, lines.
const LONGEST: u32 = 1000;
/// Lines after `end trace` in which a panic still belongs to the report: registers, and the modules again.
const TAIL: u32 = 40;
/// Lines after a vague head in which a detail may name the report.
const NEAR: u32 = 12;
/// One-line facts remembered.
const RECENT: usize = 16;
/// How long a repeated one-line fact is only counted, ns.
const QUIET_NS: u64 = 10_000_000_000;
/// Uptime from which a boot banner means that the machine went down, ns.
const RUNNING_NS: u64 = 1_000_000_000;

/// A fault that the kernel's log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Name of the rule.
    pub rule: &'static str,
    /// The kind of fault in one word.
    pub kind: &'static str,
    /// Its class.
    pub class: Class,
    /// How bad it is.
    pub severity: Severity,
    /// What of the node failed, if the node did.
    pub subclass: Option<Subclass>,
    /// What is ill, where the kernel names it.
    pub subject: Option<Subject>,
    /// Lines of the report so far; for a one-line fact, how often it was said since the last verdict.
    pub lines: u32,
    /// Lines of it that any rule would have fitted.
    pub heads: u32,
    /// Whether the kernel then gave up altogether.
    pub panicked: bool,
    /// Time of its first line, ns since boot; 0 where lines have no time.
    pub first_ns: u64,
}

/// What one line told. A verdict is `begun` at once, with what its first line says, and `ended` complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// A report that this line ended.
    pub ended: Option<Verdict>,
    /// A report that it began.
    pub begun: Option<Verdict>,
    /// A one-line fact; there is nothing more to come.
    pub fact: Option<Verdict>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    verdict: Verdict,
    shape: Shape,
    last_ns: u64,
    /// Lines left after `end trace`.
    tail: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Recent {
    rule: &'static str,
    subject: Option<Subject>,
    told_ns: u64,
    unsaid: u32,
}

/// Folds lines into verdicts.
#[derive(Clone, Debug)]
pub struct Folder {
    rules: Rules,
    open: Option<Open>,
    recent: [Option<Recent>; RECENT],
    /// The slot of `recent` to give away next.
    next: usize,
    now_ns: u64,
}

impl Folder {
    /// A folder that has seen nothing.
    pub fn new(rules: Rules) -> Self {
        Self { rules, open: None, recent: [None; RECENT], next: 0, now_ns: 0 }
    }

    /// Takes the next line.
    pub fn push(&mut self, line: &Line<'_>) -> Told {
        let before_ns = self.now_ns;
        self.now_ns = line.at_ns.unwrap_or(before_ns);
        let mut told = Told { ended: self.expire(), ..Told::default() };
        if line.user {
            return told;
        }
        if let Some(open) = &mut self.open {
            open.take(line.text, self.now_ns);
        }
        let Some(rule) = self.rules.find(line.text) else { return told };
        match rule.shape {
            Shape::Line => told.fact = self.fact(rule, line.text),
            Shape::Boot if before_ns < RUNNING_NS => {}
            _ => self.head(rule, line.text, &mut told),
        }
        told
    }

    /// Whether a report is open, which silence would end.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Ends the open report: the log is over.
    pub fn finish(&mut self) -> Option<Verdict> {
        self.open.take().map(|open| open.verdict)
    }

    /// The open report, if it is over by now. Time that runs backwards (another boot) ends it as well.
    fn expire(&mut self) -> Option<Verdict> {
        let now_ns = self.now_ns;
        let over = self.open.as_ref().is_some_and(|open| {
            now_ns.saturating_sub(open.last_ns) > SILENCE_NS
                || now_ns.saturating_sub(open.verdict.first_ns) > LONGEST_NS
                || open.last_ns.saturating_sub(now_ns) > SILENCE_NS
                || open.verdict.lines >= LONGEST
                || open.tail == Some(0)
        });
        if over { self.finish() } else { None }
    }

    /// A line that could head a report: within the open one it counts, names it, or begins another.
    fn head(&mut self, rule: &'static Rule, text: &[u8], told: &mut Told) {
        if let Some(open) = &mut self.open {
            open.verdict.heads += 1;
            if open.absorbs(rule) {
                open.absorb(rule, text);
                return;
            }
            told.ended = self.finish();
        }
        let verdict = Verdict { panicked: rule.shape == Shape::Panic, ..verdict(rule, text, self.now_ns) };
        self.open = Some(Open { verdict, shape: rule.shape, last_ns: self.now_ns, tail: None });
        told.begun = Some(verdict);
    }

    /// A one-line fact, unless the same was told a moment ago.
    fn fact(&mut self, rule: &'static Rule, text: &[u8]) -> Option<Verdict> {
        let mut verdict = verdict(rule, text, self.now_ns);
        let same = |known: &&mut Recent| known.rule == rule.name && known.subject == verdict.subject;
        let Some(known) = self.recent.iter_mut().flatten().find(same) else {
            let fresh = Recent { rule: rule.name, subject: verdict.subject, told_ns: self.now_ns, unsaid: 0 };
            self.recent[self.next] = Some(fresh);
            self.next = (self.next + 1) % RECENT;
            return Some(verdict);
        };
        if self.now_ns.abs_diff(known.told_ns) < QUIET_NS {
            known.unsaid = known.unsaid.saturating_add(1);
            return None;
        }
        verdict.lines = known.unsaid.saturating_add(1);
        *known = Recent { told_ns: self.now_ns, unsaid: 0, ..*known };
        Some(verdict)
    }
}

impl Open {
    /// Counts a line and looks what it adds.
    fn take(&mut self, text: &[u8], now_ns: u64) {
        self.last_ns = now_ns;
        self.verdict.lines += 1;
        self.tail = match self.tail {
            Some(left) => Some(left.saturating_sub(1)),
            None => text.trim_ascii_start().starts_with(b"---[ end ").then_some(TAIL),
        };
        if self.verdict.subject.is_none() {
            self.verdict.subject = of_trace(text);
        }
    }

    /// Whether a line of this rule belongs to the open report.
    fn absorbs(&self, rule: &Rule) -> bool {
        match rule.shape {
            Shape::Panic => true,
            Shape::Boot => false,
            Shape::Detail if self.shape == Shape::Vague && self.verdict.lines <= NEAR => true,
            // After its end only what is no worse than its echo belongs to it.
            _ if self.tail.is_some() => rule.name != self.verdict.rule && rule.severity <= self.verdict.severity,
            _ => rule.severity <= self.verdict.severity,
        }
    }

    fn absorb(&mut self, rule: &Rule, text: &[u8]) {
        let known = &mut self.verdict;
        if rule.shape == Shape::Panic {
            known.panicked = true;
            // A tainted kernel that was told to panic is still only a tainted kernel by class.
            if known.class != Class::PerformanceDegradation {
                known.severity = Severity::Critical;
            }
        } else if rule.shape == Shape::Detail && self.shape == Shape::Vague && known.lines <= NEAR {
            let better = verdict(rule, text, known.first_ns);
            let subject = better.subject.or(known.subject);
            *known = Verdict { subject, lines: known.lines, heads: known.heads, panicked: known.panicked, ..better };
            self.shape = Shape::Detail;
        }
    }
}

fn verdict(rule: &Rule, text: &[u8], first_ns: u64) -> Verdict {
    Verdict {
        rule: rule.name,
        kind: rule.kind,
        class: rule.class,
        severity: rule.severity,
        subclass: rule.subclass,
        subject: rule.subject.read(text.trim_ascii_start()),
        lines: 1,
        heads: 1,
        panicked: false,
        first_ns,
    }
}

#[cfg(test)]
mod tests;
