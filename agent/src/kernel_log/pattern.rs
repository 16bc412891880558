//! A pattern of the rules: a small glob in, whether a line matches out.
//!
//! `*` stands for any run of bytes, `%` for one or more decimal digits; everything else stands for itself. A
//! pattern is anchored at the line's start (a leading `*` lifts that) and never at its end: kernel messages grow
//! at the end from one version to the next. A regular expression would say more than the rules need, and a glob
//! over bytes cannot blow up: each part is searched once, to the right of the one before.

/// The longest piece between wild cards (of equally long ones the first), by which lines are filtered beforehand.
pub fn needle(pattern: &str) -> &str {
    pattern.split(['*', '%']).fold("", |best, piece| if piece.len() > best.len() { piece } else { best })
}

/// Whether `text` matches `pattern`.
pub fn matches(pattern: &str, text: &[u8]) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|anchored| strip(anchored, text)) else { return false };
    for part in parts {
        match (0..=rest.len()).find_map(|at| strip(part, &rest[at..])) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

/// What follows `part` at the start of `text`; `part` holds no `*`.
fn strip<'t>(part: &str, text: &'t [u8]) -> Option<&'t [u8]> {
    let mut pieces = part.split('%');
    let mut rest = text.strip_prefix(pieces.next().unwrap_or_default().as_bytes())?;
    for piece in pieces {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        rest = rest[digits..].strip_prefix(piece.as_bytes())?;
    }
    Some(rest)
}

/// The position of `needle` in `text`.
pub fn find(text: &[u8], needle: &str) -> Option<usize> {
    if needle.is_empty() {
        return Some(0);
    }
    text.windows(needle.len()).position(|window| window == needle.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_anchored_at_the_start_only() {
        assert!(matches("BUG: ", b"BUG: KASAN"));
        assert!(!matches("BUG: ", b"a BUG: KASAN"));
        assert!(matches("*BUG: ", b"a BUG: KASAN"));
        assert!(matches("a*b*c", b"a--b--c--"));
        assert!(!matches("a*b*c", b"a--c--b--"));
        assert!(matches("", b""));
    }

    #[test]
    fn digits_are_one_or_more() {
        assert!(matches("ata%.%: exception", b"ata12.00: exception Emask"));
        assert!(!matches("ata%: x", b"ata: x"));
        assert!(matches("*CPU#% stuck", b"soft lockup - CPU# CPU#13 stuck for"));
        assert!(!matches("CPU#%", b"CPU#"));
    }

    #[test]
    fn the_needle_is_the_longest_piece() {
        assert_eq!(needle("*INFO: task *blocked for more than"), "blocked for more than");
        assert_eq!(needle("ab%cd"), "ab");
        assert_eq!(needle("*"), "");
    }
}
