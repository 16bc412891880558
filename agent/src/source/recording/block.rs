//! The fixed parts of a block: its head and the varints before each record's body. Bytes in, fields out, and back.

/// A block is closed before its raw bytes pass this. Just under 64 KiB: lz4 then keeps 16-bit positions in a table
/// of 8 KiB, which stays in the first-level cache.
pub(super) const TARGET_RAW: usize = 65_534;

/// No block has more raw bytes than this; a reader refuses a head that claims more before it reserves any memory.
pub(super) const MAX_RAW: usize = 1 << 20;

/// The most bytes before a record's body: kind, and two varints of at most ten bytes.
pub(super) const RECORD_OVERHEAD: usize = 21;

/// The length of a block head in bytes.
pub(super) const HEAD_LEN: usize = 36;

const MAGIC_BLOCK: u32 = u32::from_le_bytes(*b"FLBK");
const MAGIC_END: u32 = u32::from_le_bytes(*b"FLEN");

/// The fields of a block head or of the end marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) is_end: bool,
    pub(super) packed_len: u32,
    pub(super) raw_len: u32,
    pub(super) count: u32,
    pub(super) first_seq: u64,
    pub(super) payload_crc: u32,
    pub(super) chain: u32,
}

impl Head {
    /// The end marker after a last record `seq`.
    pub(super) const fn end(seq: u64, chain: u32) -> Self {
        Self { is_end: true, packed_len: 0, raw_len: 0, count: 0, first_seq: seq, payload_crc: 0, chain }
    }

    /// The bytes of this head, and their checksum, which the next block names as its `chain`.
    pub(super) fn encode(&self) -> ([u8; HEAD_LEN], u32) {
        let mut out = [0; HEAD_LEN];
        let magic = if self.is_end { MAGIC_END } else { MAGIC_BLOCK };
        put32(&mut out, 0, magic);
        put32(&mut out, 4, self.packed_len);
        put32(&mut out, 8, self.raw_len);
        put32(&mut out, 12, self.count);
        out[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        put32(&mut out, 24, self.payload_crc);
        put32(&mut out, 28, self.chain);
        let crc = crc32fast::hash(&out[..32]);
        put32(&mut out, 32, crc);
        (out, crc)
    }

    /// The head in `bytes` and its checksum.
    ///
    /// # Errors
    /// What is wrong with it, in words for a reader of the file.
    pub(super) fn decode(bytes: &[u8; HEAD_LEN]) -> Result<(Self, u32), &'static str> {
        let crc = get32(bytes, 32);
        let is_end = match get32(bytes, 0) {
            MAGIC_BLOCK => false,
            MAGIC_END => true,
            _ => return Err("no block starts here"),
        };
        if crc32fast::hash(&bytes[..32]) != crc {
            return Err("the checksum of the block head is wrong");
        }
        let head = Self {
            is_end,
            packed_len: get32(bytes, 4),
            raw_len: get32(bytes, 8),
            count: get32(bytes, 12),
            first_seq: word64(&bytes[16..24]),
            payload_crc: get32(bytes, 24),
            chain: get32(bytes, 28),
        };
        head.check_lengths().map(|()| (head, crc))
    }

    /// A good checksum says that the head is as written, not that a sane program wrote it.
    fn check_lengths(&self) -> Result<(), &'static str> {
        let (packed, raw) = (self.packed_len as usize, self.raw_len as usize);
        if self.is_end {
            return if packed == 0 && raw == 0 { Ok(()) } else { Err("the end marker claims a payload") };
        }
        if raw == 0 || self.count == 0 || packed == 0 {
            return Err("the block claims to be empty");
        }
        if raw > MAX_RAW || packed > max_packed(raw) {
            return Err("the block claims to be larger than any block may be");
        }
        Ok(())
    }
}

/// The most bytes that lz4 makes of `raw` bytes.
pub(super) const fn max_packed(raw: usize) -> usize {
    lz4_flex::block::get_maximum_output_size(raw)
}

/// Appends `value` as a LEB128 varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint from the front of `bytes`: its value and its length. `None` when it is cut short or passes 64 bits.
pub(super) fn get_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if at == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * at);
        if byte < 0x80 {
            return Some((value, at + 1));
        }
    }
    None
}

/// Writes a little-endian number at `at`.
pub(super) fn put32(out: &mut [u8], at: usize, value: u32) {
    out[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Reads a little-endian number at `at`.
pub(super) fn get32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

/// The little-endian number in (at most) eight bytes.
pub(super) fn word64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
