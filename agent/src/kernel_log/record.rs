//! Records of `/dev/kmsg`: the bytes of one `read` in, a [`Record`] that borrows them out. Never panics, whatever
//! the bytes; allocates nothing.
//!
//! The form is the kernel's Documentation/ABI/testing/dev-kmsg: `prio,seq,usec,flags[,key=value..];text`, a
//! newline, then lines ` KEY=value` of the dictionary. `prio` is facility * 8 + level; only facility 0 is the
//! kernel's own voice, all others were written to `/dev/kmsg` by programs. Bytes that are not printable ASCII, and
//! the backslash, arrive as `\xNN`. A reader that is too slow gets EPIPE and then a jump in `seq`: see [`Sequence`].

use thiserror::Error;

/// Longest record that the kernel hands out (PRINTK_MESSAGE_MAX), bytes.
pub const MAX_RECORD: usize = 8192;

/// One record of `/dev/kmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Who speaks: 0 is the kernel, 1 user programs, 3 daemons, ... (as in syslog(3)).
    pub facility: u16,
    /// How loud: 0 emergency .. 7 debug.
    pub level: u8,
    /// Number of the record since boot.
    pub seq: u64,
    /// Microseconds since boot, of the kernel's `local_clock`.
    pub time_us: u64,
    /// A continuation of the record before (`c`; old kernels write `+` for the later fragments).
    pub continued: bool,
    /// Who printed: thread or CPU, where the kernel is built with PRINTK_CALLER.
    pub caller: Option<Caller>,
    /// The text, still escaped; see [`unescape`].
    pub text: &'a [u8],
    /// The dictionary's lines, still escaped; empty where there is none.
    pub dictionary: &'a [u8],
}

/// Who printed a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A thread, by its id.
    Thread(u32),
    /// Interrupt context of this CPU.
    Cpu(u32),
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no record of /dev/kmsg: {what} is missing or malformed")]
pub struct Malformed {
    /// The first field that does not read.
    pub what: &'static str,
}

/// Reads one record: what one `read` of `/dev/kmsg` gave.
///
/// # Errors
/// The bytes do not begin with the four fields, or have no `;`.
pub fn parse(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let semicolon = bytes.iter().position(|&byte| byte == b';').ok_or(Malformed { what: "the semicolon" })?;
    let (head, body) = (&bytes[..semicolon], &bytes[semicolon + 1..]);
    let mut fields = head.split(|&byte| byte == b',');
    let mut number = |what| fields.next().and_then(decimal).ok_or(Malformed { what });
    let priority = number("the priority")?;
    let (seq, time_us) = (number("the sequence number")?, number("the time")?);
    let flags = fields.next().ok_or(Malformed { what: "the flags" })?;
    let end = body.iter().position(|&byte| byte == b'\n').unwrap_or(body.len());
    Ok(Record {
        facility: u16::try_from(priority >> 3).map_err(|_| Malformed { what: "the priority" })?,
        level: (priority & 7) as u8,
        seq,
        time_us,
        continued: flags.first().is_some_and(|flag| matches!(flag, b'c' | b'+')),
        caller: fields.find_map(|field| caller(field.strip_prefix(b"caller=")?)),
        text: &body[..end],
        dictionary: body.get(end + 1..).unwrap_or_default(),
    })
}

impl<'a> Record<'a> {
    /// The value of `key` (for instance `SUBSYSTEM`, `DEVICE`) in the dictionary, still escaped.
    pub fn value(&self, key: &str) -> Option<&'a [u8]> {
        let lines = self.dictionary.split(|&byte| byte == b'\n');
        lines
            .filter_map(|line| line.strip_prefix(b" "))
            .find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }
}

/// `T123` is a thread, `C1` a CPU.
pub(super) fn caller(word: &[u8]) -> Option<Caller> {
    let (kind, id) = word.split_first()?;
    let id = u32::try_from(decimal(id)?).ok()?;
    match kind {
        b'T' => Some(Caller::Thread(id)),
        b'C' => Some(Caller::Cpu(id)),
        _ => None,
    }
}

/// A decimal number and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Undoes `\xNN`; `buffer` is used, and cut short by its length, only if there is something to undo. A newline
/// within a message comes out as one: a record may hold several lines.
pub fn unescape<'b>(text: &'b [u8], buffer: &'b mut [u8]) -> &'b [u8] {
    if !text.contains(&b'\\') {
        return text;
    }
    let (mut from, mut to) = (0, 0);
    while let (Some(&byte), Some(slot)) = (text.get(from), buffer.get_mut(to)) {
        let escaped = text.get(from..from + 4).and_then(escape);
        *slot = escaped.unwrap_or(byte);
        from += if escaped.is_some() { 4 } else { 1 };
        to += 1;
    }
    &buffer[..to]
}

fn escape(four: &[u8]) -> Option<u8> {
    let &[b'\\', b'x', high, low] = four else { return None };
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(nibble(high)? << 4 | nibble(low)?)
}

/// Watches sequence numbers, so that nothing is lost silently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    next: Option<u64>,
    /// Records that were overwritten before they could be read.
    pub lost: u64,
}

impl Sequence {
    /// Takes a record's number; how many are missing before it. A number that was seen already counts as nothing.
    pub fn observe(&mut self, seq: u64) -> u64 {
        let expected = self.next.unwrap_or(seq);
        let missing = seq.saturating_sub(expected);
        self.next = Some(expected.max(seq.saturating_add(1)));
        self.lost = self.lost.saturating_add(missing);
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_record_reads() {
        let bytes = b"6,339,5140900,c,more=1,caller=T17;NET: one\\x0atwo\n SUBSYSTEM=net\n DEVICE=n3\n";
        let record = parse(bytes).unwrap();
        assert_eq!((record.facility, record.level, record.seq, record.time_us), (0, 6, 339, 5_140_900));
        assert!(record.continued);
        assert_eq!(record.caller, Some(Caller::Thread(17)));
        assert_eq!(record.text, b"NET: one\\x0atwo");
        assert_eq!(record.value("DEVICE"), Some(&b"n3"[..]));
        assert_eq!(record.value("DEV"), None);
        let mut buffer = [0; 64];
        assert_eq!(unescape(record.text, &mut buffer), b"NET: one\ntwo");
    }

    #[test]
    fn facility_and_level_are_apart() {
        let record = parse(b"30,1,2,-;systemd[1]: hello").unwrap();
        assert_eq!((record.facility, record.level, record.text), (3, 6, &b"systemd[1]: hello"[..]));
        assert!(!record.continued && record.caller.is_none() && record.dictionary.is_empty());
    }

    #[test]
    fn what_is_no_record_is_named() {
        for (bytes, what) in [
            (&b""[..], "the semicolon"),
            (b"6,1,2,-no text", "the semicolon"),
            (b";x", "the priority"),
            (b"-6,1,2,-;x", "the priority"),
            (b"99999999999,1,2,-;x", "the priority"),
            (b"6,,2,-;x", "the sequence number"),
            (b"6,1,99999999999999999999999,-;x", "the time"),
            (b"6,1,2;x", "the flags"),
        ] {
            assert_eq!(parse(bytes).unwrap_err().what, what, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn escapes_that_are_none_stay() {
        let mut buffer = [0; 8];
        assert_eq!(unescape(b"\\x5c\\xff", &mut buffer), b"\\\xff");
        assert_eq!(unescape(b"\\xg0\\x", &mut buffer), b"\\xg0\\x");
        assert_eq!(unescape(b"\\x41234567890", &mut buffer), b"A2345678", "cut to the buffer");
    }

    #[test]
    fn a_jump_is_a_loss() {
        let mut sequence = Sequence::default();
        assert_eq!([7, 8, 12, 12, 3, 13].map(|seq| sequence.observe(seq)), [0, 0, 3, 0, 0, 0]);
        assert_eq!(sequence.lost, 3);
        assert_eq!(sequence.observe(u64::MAX), u64::MAX - 14);
    }
}
