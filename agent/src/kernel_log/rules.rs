//! The ordered rules: a line of the kernel's log in, the first rule that fits it out.
//!
//! A rule is a name, what it means in faultline's words, and the openings of messages by which the kernel says
//! it ([`pattern`](super::pattern)). All patterns' longest pieces go into one Aho-Corasick automaton, so that an ordinary
//! line costs one pass over its bytes and only a line that holds a piece is compared with whole patterns.
//! Nothing is allocated after [`Rules::new`], and the answer depends on the line and the order of the rules only.
//!
//! The automaton is the compact kind: about 100 KB and 350 ns a line. The fast kind halves the time for 2.3 MB, which the
//! few lines a second of a kernel's log do not repay.
//!
//! Rejected: a `RegexSet` (slower to build and to match, and a pattern nobody can check by eye), and one score per
//! word (it cannot say why).

mod devices;
mod kernel;
mod resources;

use aho_corasick::{AhoCorasick, AhoCorasickKind, BuildError};
use serde::Serialize;

use super::{pattern, subject::Find};
use crate::model::fault::{Class, Severity};

/// What of the node failed, where a rule's class is [`Class::NodeFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subclass {
    /// A part: memory, disk, bus, cooling.
    Hardware,
    /// The kernel itself.
    Software,
    /// A network interface.
    Network,
}

impl Subclass {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Software => "software",
            Self::Network => "network",
        }
    }
}

/// How the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The head of a report of many lines: registers, a trace, locks held.
    Report,
    /// A report whose head says little (`WARNING`, `kernel BUG`, `Oops`): a [`Self::Detail`] within it is the better name.
    Vague,
    /// A report's head, or the line within a vague one that says what it is about.
    Detail,
    /// The last words of a dying kernel: part of the report that is open, or one of its own.
    Panic,
    /// A fact in one line, apart from any report around it.
    Line,
    /// A fault only if the kernel was already running: a boot banner in the middle of a log.
    Boot,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, unique.
    pub name: &'static str,
    /// The kind of fault in one word; several rules may share it.
    pub kind: &'static str,
    /// The class of the fault.
    pub class: Class,
    /// How bad, taken by itself.
    pub severity: Severity,
    /// What of the node failed.
    pub subclass: Option<Subclass>,
    /// How the kernel says it.
    pub shape: Shape,
    /// Where the line names what is ill.
    pub subject: Find,
    /// Any of these.
    pub patterns: &'static [&'static str],
}

impl Rule {
    /// A report of the kernel about itself, without a subject.
    const fn new(name: &'static str, kind: &'static str, class: Class, severity: Severity) -> Self {
        let (subclass, shape, subject) = (None, Shape::Report, Find::Nothing);
        Self { name, kind, class, severity, subclass, shape, subject, patterns: &[] }
    }

    const fn shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    const fn of(self, subclass: Subclass) -> Self {
        Self { subclass: Some(subclass), ..self }
    }

    const fn names(self, subject: Find) -> Self {
        Self { subject, ..self }
    }

    const fn when(self, patterns: &'static [&'static str]) -> Self {
        Self { patterns, ..self }
    }
}

/// All rules, the first that fits wins: faults of the kernel, then of devices, then what ran out.
pub const RULES: [&[Rule]; 3] = [kernel::RULES, devices::RULES, resources::RULES];

/// How many there are.
pub const fn count() -> usize {
    kernel::RULES.len() + devices::RULES.len() + resources::RULES.len()
}

/// A rule and its place among all of them.
pub fn by_name(name: &str) -> Option<(u16, &'static Rule)> {
    let mut all = (0..).zip(RULES.into_iter().flatten());
    all.find(|(_, rule)| rule.name == name)
}

/// The rule at a place.
pub fn at(number: u16) -> Option<&'static Rule> {
    RULES.into_iter().flatten().nth(usize::from(number))
}

/// Lines that quote others or speak of options: nothing in them is news.
const NEVER: &[&str] = &[
    "Kernel command line:", // init/main.c
    "Command line:",        // arch/x86/kernel/setup.c
    "Unknown kernel command line parameters",
    "audit:",   // kernel/audit.c quotes programs' strings
    "systemd[", // a program that writes to the console
    "Spectre",  // arch/x86/kernel/cpu/bugs.c describes mitigations
    "microcode:",
    "BUG *: kasan: bad access detected", // mm/slub.c within a KASAN report, which has its own head
    "mce: CPU supports",                 // arch/x86/kernel/cpu/mce/core.c
    "EDAC MC: Ver",                      // drivers/edac/edac_module.c
];

/// Longest part of a line that is looked at, bytes; the kernel's own lines end near 1,000.
const LOOK: usize = 1024;

/// The rules, ready to match.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<&'static Rule>,
    pieces: AhoCorasick,
    /// For each piece, the patterns it stands for, as (rule, pattern).
    candidates: Vec<Vec<(usize, &'static str)>>,
}

impl Rules {
    /// All rules.
    ///
    /// # Errors
    /// The automaton cannot be built: the table of rules is broken (a test looks after that).
    pub fn new() -> Result<Self, BuildError> {
        Self::chosen(|_| true)
    }

    /// The rules that `keep` accepts, in their order.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn chosen(keep: impl Fn(&Rule) -> bool) -> Result<Self, BuildError> {
        let rules: Vec<&'static Rule> = RULES.into_iter().flatten().filter(|rule| keep(rule)).collect();
        let (mut pieces, mut candidates) = (Vec::<&str>::new(), Vec::<Vec<(usize, &'static str)>>::new());
        for (index, rule) in rules.iter().enumerate() {
            for whole in rule.patterns {
                let piece = pattern::needle(whole);
                let at = pieces.iter().position(|known| *known == piece).unwrap_or_else(|| {
                    pieces.push(piece);
                    candidates.push(Vec::new());
                    pieces.len() - 1
                });
                candidates[at].push((index, whole));
            }
        }
        let pieces = AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(pieces)?;
        Ok(Self { rules, pieces, candidates })
    }

    /// The first rule that fits the message `text`.
    pub fn find(&self, text: &[u8]) -> Option<&'static Rule> {
        let text = text[..text.len().min(LOOK)].trim_ascii_start();
        let mut best = usize::MAX;
        for hit in self.pieces.find_overlapping_iter(text) {
            for &(rule, whole) in &self.candidates[hit.pattern().as_usize()] {
                if rule < best && pattern::matches(whole, text) {
                    best = rule;
                }
            }
        }
        let rule = *self.rules.get(best)?;
        (!NEVER.iter().any(|never| pattern::matches(never, text)) && !is_whole(rule, text)).then_some(rule)
    }

    /// Memory of the automaton, bytes.
    pub fn memory(&self) -> usize {
        self.pieces.memory_usage()
    }

    /// The rules in their order.
    pub fn all(&self) -> &[&'static Rule] {
        &self.rules
    }
}

/// "active with 3 out of 3 devices" is good news from an array; with fewer it is not.
fn is_whole(rule: &Rule, text: &[u8]) -> bool {
    let count = |after: &str| {
        let at = pattern::find(text, after)? + after.len();
        let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        super::record::decimal(&text[at..at + digits])
    };
    rule.name == "raid_degraded" && count("active with ").is_some_and(|have| Some(have) == count(" out of "))
}

#[cfg(test)]
mod tests;
