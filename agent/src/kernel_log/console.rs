//! Console text: one line of a serial console, of `dmesg` or of a syslog file in; the kernel's messages in it,
//! each a [`Line`], out. Never panics, whatever the bytes; allocates nothing.
//!
//! Known at the front, in this order: `** 12 printk messages dropped **`, a level `<6>`, a syslog prefix
//! (`Jan  2 03:04:05 host kernel:`, ISO 8601 or Go's date in its place), the printk stamp `[   12.345678]` with the caller
//! `[ T1234]`. Programs write to the same console without asking, so that a message may begin in the middle of
//! a line (`login: [   16.3] INFO: ..`): every stamp begins a new message.

use super::record::{Caller, Record, caller, decimal};

/// One message, wherever it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Line<'a> {
    /// Nanoseconds since boot; `None` where the line has no stamp.
    pub at_ns: Option<u64>,
    /// 0 emergency .. 7 debug, where known.
    pub level: Option<u8>,
    /// Whether a program said it, not the kernel.
    pub user: bool,
    /// Who printed, where known.
    pub caller: Option<Caller>,
    /// Messages that the console says were dropped before this one.
    pub dropped: u64,
    /// The message without its line end.
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// A line of a `/dev/kmsg` record, `text` being (a line of) its text after
    /// [`unescape`](super::record::unescape).
    pub fn of_record(record: &Record<'_>, text: &'a [u8]) -> Self {
        Self {
            at_ns: Some(record.time_us.saturating_mul(1000)),
            level: Some(record.level),
            user: record.facility != 0,
            caller: record.caller,
            dropped: 0,
            text,
        }
    }
}

/// The messages in one line of console text.
pub fn lines(line: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut rest = Some(line.trim_ascii_end());
    std::iter::from_fn(move || {
        let whole = rest?;
        let (head, message) = front(whole);
        // A stamp in the middle ends this message and begins the next.
        let cut = (1..message.len()).find(|&at| message[at] == b'[' && stamp(&message[at..]).is_some());
        rest = cut.map(|at| &message[at..]);
        Some(Line { text: cut.map_or(message, |at| &message[..at]), ..head })
    })
}

/// Takes everything before the message off.
fn front(line: &[u8]) -> (Line<'_>, &[u8]) {
    let mut head = Line::default();
    let (dropped, line) = dropped(line);
    head.dropped = dropped;
    let (priority, line) = level(line);
    let (user, line) = syslog(line);
    if let Some(priority) = priority {
        head.level = Some((priority & 7) as u8);
    }
    head.user = user || priority.is_some_and(|priority| priority >> 3 != 0);
    let Some((at_ns, rest)) = stamp(line) else { return (head, line) };
    head.at_ns = Some(at_ns);
    let rest = match bracketed(rest).and_then(|(word, after)| Some((caller(word)?, after))) {
        Some((caller, after)) => {
            head.caller = Some(caller);
            after
        }
        None => rest,
    };
    (head, rest.strip_prefix(b" ").unwrap_or(rest))
}

/// `** 2395 printk messages dropped ** `
fn dropped(line: &[u8]) -> (u64, &[u8]) {
    let parse = || {
        let rest = line.strip_prefix(b"** ")?;
        let end = rest.iter().position(|&byte| byte == b' ')?;
        Some((decimal(&rest[..end])?, rest[end..].strip_prefix(b" printk messages dropped **")?))
    };
    parse().map_or((0, line), |(count, rest)| (count, rest.strip_prefix(b" ").unwrap_or(rest)))
}

/// `<6>`, or `<14>` with a facility in it.
fn level(line: &[u8]) -> (Option<u64>, &[u8]) {
    let parse = || {
        let rest = line.strip_prefix(b"<")?;
        let end = rest.iter().take(4).position(|&byte| byte == b'>')?;
        Some((decimal(&rest[..end])?, &rest[end + 1..]))
    };
    parse().map_or((None, line), |(priority, rest)| (Some(priority), rest))
}

/// A syslog file's prefix; whether a program's tag follows it. Go's date stands alone, without host and tag.
fn syslog(line: &[u8]) -> (bool, &[u8]) {
    if let Some(rest) = date("9999/99/99 99:99:99 ", line) {
        return (false, rest);
    }
    let iso = || date("9999-99-99T99:99:99", line).and_then(|rest| rest.splitn(2, |&byte| byte == b' ').nth(1));
    let Some(rest) = date("aaa _9 99:99:99 ", line).or_else(iso) else { return (false, line) };
    let mut words = rest.splitn(3, |&byte| byte == b' ');
    match (words.next(), words.next(), words.next()) {
        (_, Some(b"kernel:"), text) => (false, text.unwrap_or_default()),
        (_, Some(tag), _) => (tag.ends_with(b":"), rest),
        _ => (false, rest),
    }
}

/// What follows a date of this form, in which `9` stands for a digit, `a` for a letter, `_` for a digit or a blank.
fn date<'l>(form: &str, line: &'l [u8]) -> Option<&'l [u8]> {
    let (start, rest) = line.split_at_checked(form.len())?;
    form.bytes().zip(start).all(|(want, &byte)| digit_fits(want, byte)).then_some(rest)
}

fn digit_fits(want: u8, byte: u8) -> bool {
    match want {
        b'9' => byte.is_ascii_digit(),
        b'_' => byte.is_ascii_digit() || byte == b' ',
        b'a' => byte.is_ascii_alphabetic(),
        _ => byte == want,
    }
}

/// `[   12.345678]` in nanoseconds, and what follows.
fn stamp(line: &[u8]) -> Option<(u64, &[u8])> {
    let (inside, rest) = bracketed(line)?;
    let dot = inside.iter().position(|&byte| byte == b'.')?;
    let (seconds, fraction) = (decimal(&inside[..dot])?, &inside[dot + 1..]);
    if fraction.len() != 6 {
        return None;
    }
    let micros = seconds.checked_mul(1_000_000)?.checked_add(decimal(fraction)?)?;
    Some((micros.checked_mul(1000)?, rest))
}

/// `[  inside]`, blanks in front of `inside` taken off.
fn bracketed(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = line.strip_prefix(b"[")?;
    let end = rest.iter().take(24).position(|&byte| byte == b']')?;
    Some((rest[..end].trim_ascii_start(), &rest[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> (Option<u64>, Option<u8>, bool, String) {
        let line = lines(line.as_bytes()).last().unwrap();
        (line.at_ns.map(|ns| ns / 1000), line.level, line.user, String::from_utf8_lossy(line.text).into_owned())
    }

    #[test]
    fn every_front_comes_off() {
        for (line, at, level, user) in [
            ("[   12.345678] text", Some(12_345_678), None, false),
            ("[   12.345678][ T1234] text", Some(12_345_678), None, false),
            ("<4>[    0.000001] text\r\n", Some(1), Some(4), false),
            ("<30>[    0.000001] text", Some(1), Some(6), true),
            ("Jan  2 03:04:05 host kernel: [    1.000000] text", Some(1_000_000), None, false),
            ("2018-01-09T14:28:48.123456+00:00 host kernel: text", None, None, false),
            ("2018/01/09 14:28:48 text", None, None, false),
            ("text", None, None, false),
            ("login: [   16.305150] text", Some(16_305_150), None, false),
        ] {
            assert_eq!(one(line), (at, level, user, "text".into()), "{line}");
        }
    }

    #[test]
    fn a_program_in_a_syslog_file_is_not_the_kernel() {
        assert!(one("Jan  2 03:04:05 host sshd[12]: BUG: not one").2);
        assert!(one("2018-01-09T14:28:48+00:00 host sshd[12]: BUG: not one").2);
    }

    #[test]
    fn callers_and_drops_are_kept() {
        let line = lines(b"** 2395 printk messages dropped ** [   96.027166][    C1] BUG x").next().unwrap();
        assert_eq!((line.dropped, line.caller, line.text), (2395, Some(Caller::Cpu(1)), &b"BUG x"[..]));
    }

    #[test]
    fn a_stamp_within_a_line_begins_a_message() {
        let texts: Vec<_> = lines(b"[    1.000000] one[    2.000000] two [x] [3.1]").map(|line| line.text).collect();
        assert_eq!(texts, [&b"one"[..], b"two [x] [3.1]"]);
    }

    #[test]
    fn what_only_looks_like_a_front_stays() {
        for line in ["[ INFO: suspicious RCU usage. ]", "<TASK>", "** x", "[<ffffffff8148e81d>] f+0x1", "[1.5] x"] {
            assert_eq!(one(line), (None, None, false, line.into()));
        }
    }
}
