//! What is ill, as the line itself names it: a rule's [`Find`] and a line in, a [`Subject`] out.
//!
//! Kernel messages put names of their own choosing (a task's `comm` may hold blanks, colons, slashes) next to
//! fixed words. So every form is read from its fixed words outwards, and what does not fit gives no subject
//! rather than a wrong one.

use serde::{Serialize, Serializer};

use super::{pattern::find, record::decimal};

/// Longest name kept, bytes; a longer one (a deep cgroup) is cut.
pub const MAX_NAME: usize = 64;

/// Where a rule's lines name what is ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// Nowhere.
    Nothing,
    /// `<after>COMM:PID<until>`, any of `until`.
    CommPid {
        /// Fixed words before.
        after: &'static str,
        /// Fixed words behind.
        until: &'static [&'static str],
    },
    /// `<after>COMM/PID`.
    CommSlashPid {
        /// Fixed words before.
        after: &'static str,
    },
    /// `<after>PID (COMM)`.
    PidComm {
        /// Fixed words before.
        after: &'static str,
    },
    /// `<after>COMM ` without a pid.
    PidNamed {
        /// Fixed words before.
        after: &'static str,
    },
    /// `COMM[PID]`, before a colon or a blank.
    Segfault,
    /// `COMM: `, at the start.
    TaskBeforeColon,
    /// `<after>NUMBER`.
    Cpu {
        /// Fixed words before.
        after: &'static str,
    },
    /// `<after>WORD`, else `device WORD`.
    Device {
        /// Fixed words before.
        after: &'static str,
    },
    /// The first word, without its colon.
    First,
    /// `<after>WORD`.
    Interface {
        /// Fixed words before.
        after: &'static str,
    },
    /// The word before the last colon.
    BeforeColon,
    /// `(WORD)` or `(device WORD)`: how file systems name themselves.
    InBrackets,
    /// The last word, without the inode of the journal: `sda1-8.` is on `sda1`.
    Journal,
    /// `<after>PATH`.
    Cgroup {
        /// Fixed words before.
        after: &'static str,
    },
}

/// The kind of thing that is ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Thing {
    /// A task: its `comm`, and its pid where the line has it.
    Task,
    /// A CPU, by number.
    Cpu,
    /// A device by its kernel name.
    Device,
    /// The device a file system lives on.
    FileSystem,
    /// A network interface.
    Interface,
    /// A cgroup path.
    Cgroup,
}

/// What is ill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Subject {
    /// Its kind.
    pub thing: Thing,
    /// Its name; empty for a CPU.
    pub name: Name,
    /// A task's pid, a CPU's number.
    pub number: Option<u32>,
}

/// A name of at most [`MAX_NAME`] bytes, kept in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    len: u8,
    bytes: [u8; MAX_NAME],
}

impl Name {
    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; MAX_NAME];
        let len = name.len().min(MAX_NAME);
        bytes[..len].copy_from_slice(&name[..len]);
        Self { len: len as u8, bytes }
    }

    /// Its bytes: whatever the kernel printed, not always UTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl Find {
    /// Reads the subject from `text`.
    pub fn read(self, text: &[u8]) -> Option<Subject> {
        match self {
            Self::Nothing => None,
            Self::CommPid { after, until } => comm_pid(behind(text, after)?, until),
            Self::CommSlashPid { after } => comm_slash_pid(behind(text, after)?),
            Self::PidComm { after } => pid_comm(behind(text, after)?),
            Self::PidNamed { after } => named(Thing::Task, cut(behind(text, after)?, b" ")),
            Self::Segfault => segfault(text),
            Self::TaskBeforeColon => named(Thing::Task, cut(text, b":")),
            Self::Cpu { after } => cpu(behind(text, after)?),
            Self::Device { after } => {
                named(Thing::Device, word(behind(text, after).or_else(|| behind(text, "device "))?))
            }
            Self::First => named(Thing::Device, cut(text, b": ")),
            Self::Interface { after } => named(Thing::Interface, word(behind(text, after)?)),
            Self::BeforeColon => before_colon(text),
            Self::InBrackets => in_brackets(text),
            Self::Journal => journal(text),
            Self::Cgroup { after } => named(Thing::Cgroup, cut(behind(text, after)?, b" ")),
        }
    }
}

/// The task in the line `CPU: 1 PID: 5851 Comm: insmod Not tainted 6.1.0 ..` that each trace begins with, or in
/// the line `in_atomic(): 1, .. pid: 12, name: foo` of a sleeper.
pub fn of_trace(text: &[u8]) -> Option<Subject> {
    let text = text.trim_ascii_start();
    if text.starts_with(b"in_atomic(): ") {
        return task(behind(text, "name: ")?, digits(behind(text, "pid: ")?));
    }
    if !text.starts_with(b"CPU: ") {
        return None;
    }
    let comm = behind(text, "Comm: ")?;
    let end = [" Not tainted", " Tainted: ", " Kdump: "].iter().filter_map(|mark| find(comm, mark)).min();
    task(&comm[..end?], digits(behind(text, "PID: ")?))
}

fn behind<'t>(text: &'t [u8], after: &str) -> Option<&'t [u8]> {
    Some(&text[find(text, after)? + after.len()..])
}

/// Up to the first of `ends`.
fn cut<'t>(text: &'t [u8], ends: &[u8]) -> &'t [u8] {
    &text[..text.iter().position(|byte| ends.contains(byte)).unwrap_or(text.len())]
}

fn word(text: &[u8]) -> &[u8] {
    cut(text, b" ,:;)]\t")
}

fn digits(text: &[u8]) -> Option<u32> {
    let end = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    u32::try_from(decimal(&text[..end])?).ok()
}

fn named(thing: Thing, name: &[u8]) -> Option<Subject> {
    (!name.is_empty()).then(|| Subject { thing, name: Name::new(name), number: None })
}

fn task(comm: &[u8], pid: Option<u32>) -> Option<Subject> {
    Some(Subject { number: pid, ..named(Thing::Task, comm)? })
}

fn comm_pid(text: &[u8], until: &[&str]) -> Option<Subject> {
    let end = until.iter().filter_map(|mark| find(text, mark)).min()?;
    let colon = text[..end].iter().rposition(|&byte| byte == b':')?;
    task(&text[..colon], Some(digits(&text[colon + 1..end])?))
}

fn comm_slash_pid(text: &[u8]) -> Option<Subject> {
    let slash = text.iter().rposition(|&byte| byte == b'/')?;
    task(&text[..slash], Some(digits(&text[slash + 1..])?))
}

fn pid_comm(text: &[u8]) -> Option<Subject> {
    let comm = behind(text, " (")?;
    task(&comm[..comm.iter().position(|&byte| byte == b')')?], Some(digits(text)?))
}

fn segfault(text: &[u8]) -> Option<Subject> {
    let open = text.iter().position(|&byte| byte == b'[')?;
    let comm = text[..open].strip_prefix(b"traps: ").unwrap_or(&text[..open]);
    task(comm, Some(digits(&text[open + 1..])?))
}

fn cpu(text: &[u8]) -> Option<Subject> {
    Some(Subject { thing: Thing::Cpu, name: Name::new(b""), number: Some(digits(text)?) })
}

fn before_colon(text: &[u8]) -> Option<Subject> {
    let marks = [": NIC", ": Link", ": link", ": Lost", " NIC", ":"];
    let end = marks.iter().find_map(|mark| find(text, mark))?;
    named(Thing::Interface, text[..end].rsplit(|&byte| byte == b' ').next()?)
}

fn in_brackets(text: &[u8]) -> Option<Subject> {
    let inside = behind(text, "(")?;
    named(Thing::FileSystem, word(inside.strip_prefix(b"device ").unwrap_or(inside)))
}

fn journal(text: &[u8]) -> Option<Subject> {
    let text = text.trim_ascii_end();
    let name = text.strip_suffix(b".").unwrap_or(text).rsplit(|&byte| byte == b' ').next()?;
    let inode = name.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    // `dm-0` alone (an external journal) ends like an inode as well.
    let device = name[..name.len() - inode].strip_suffix(b"-").filter(|device| inode > 0 && *device != b"dm");
    named(Thing::FileSystem, device.unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(find: Find, text: &str) -> (Thing, String, Option<u32>) {
        let subject = find.read(text.as_bytes()).unwrap_or_else(|| panic!("nothing in {text}"));
        (subject.thing, String::from_utf8_lossy(subject.name.as_bytes()).into_owned(), subject.number)
    }

    #[test]
    fn names_are_read_from_the_fixed_words_outwards() {
        let hung = Find::CommPid { after: "task ", until: &[" blocked "] };
        for (find, text, thing, name, number) in [
            (
                hung,
                "INFO: task kworker/0:1:764 blocked for more than 120 seconds.",
                Thing::Task,
                "kworker/0:1",
                Some(764),
            ),
            (hung, "INFO: task my task:9 blocked for", Thing::Task, "my task", Some(9)),
            (
                Find::PidComm { after: "rocess " },
                "Killed process 12 (a (b)) total-vm:1kB",
                Thing::Task,
                "a (b",
                Some(12),
            ),
            (
                Find::CommSlashPid { after: ", " },
                "BUG: spinlock bad magic on CPU#0, kworker/0:1/31",
                Thing::Task,
                "kworker/0:1",
                Some(31),
            ),
            (Find::Cpu { after: "on cpu " }, "Watchdog detected hard LOCKUP on cpu 13", Thing::Cpu, "", Some(13)),
            (Find::Device { after: "dev " }, "I/O error, dev nvme0n1, sector 1", Thing::Device, "nvme0n1", None),
            (
                Find::Device { after: "dev " },
                "Buffer I/O error on device dm-0, logical block 1",
                Thing::Device,
                "dm-0",
                None,
            ),
            (Find::Journal, "Aborting journal on device dm-0-8.", Thing::FileSystem, "dm-0", None),
            (
                Find::Journal,
                "JBD2: I/O error when updating journal superblock for sda1.",
                Thing::FileSystem,
                "sda1",
                None,
            ),
            (Find::First, "ata1.00: exception Emask", Thing::Device, "ata1.00", None),
            (Find::BeforeColon, "e1000: eth0 NIC Link is Down", Thing::Interface, "eth0", None),
            (Find::BeforeColon, "igb 0000:01:00.0 eno1: Link is Down", Thing::Interface, "eno1", None),
            (Find::InBrackets, "EXT4-fs error (device sda1): f:1", Thing::FileSystem, "sda1", None),
            (Find::InBrackets, "XFS (dm-0): Corruption", Thing::FileSystem, "dm-0", None),
            (Find::Segfault, "traps: foo bar[7] trap int3 ip:1", Thing::Task, "foo bar", Some(7)),
            (
                Find::Cgroup { after: "controller in " },
                "cgroup: fork rejected by pids controller in /a/b",
                Thing::Cgroup,
                "/a/b",
                None,
            ),
        ] {
            assert_eq!(read(find, text), (thing, name.into(), number), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_gives_nothing() {
        assert_eq!(Find::CommPid { after: "task ", until: &[" blocked "] }.read(b"INFO: task x blocked for"), None);
        assert_eq!(Find::Cpu { after: "CPU " }.read(b"on CPU "), None);
        assert_eq!(Find::Segfault.read(b"segfault at 0"), None);
        assert_eq!(of_trace(b"CPU: 1 PID: 2 Comm: x"), None);
    }

    #[test]
    fn a_trace_names_its_task() {
        let subject = of_trace(b"CPU: 0 UID: 0 PID: 298 Comm: a b Not tainted 6.12.23").unwrap();
        assert_eq!((subject.name.as_bytes(), subject.number), (&b"a b"[..], Some(298)));
        let subject = of_trace(b" in_atomic(): 1, irqs_disabled(): 0, pid: 12, name: dd").unwrap();
        assert_eq!((subject.name.as_bytes(), subject.number), (&b"dd"[..], Some(12)));
    }

    #[test]
    fn a_long_name_is_cut() {
        let long = format!("controller in {}", "/x".repeat(100));
        assert_eq!(
            Find::Cgroup { after: "controller in " }.read(long.as_bytes()).unwrap().name.as_bytes().len(),
            MAX_NAME
        );
    }
}
