//! In: the bytes of `/sys/kernel/btf/vmlinux`. Out: where a field lies, how large a struct is, what an enum
//! constant is worth and what a raw tracepoint passes, on the kernel that runs now.
//!
//! Why an own walker: Rust has no CO-RE relocation, aya keeps its member offsets private, and every crate that
//! builds a tree of types pays for about 130,000 of them where the agent asks some sixty questions. This one keeps
//! the bytes, one offset per type and one hash per *named* struct, union, enum and typedef, and is dropped after start.
//!
//! Rules: the header is read by its own `hdr_len` (32 bytes since 7.1, it was 24). Bytes are outside input, so every
//! access is checked and every walk is bounded; broken BTF gives an error or `None`, never a panic. Where two types
//! of one name disagree, the answer is `None`: refuse, never guess. Layout source: `include/uapi/linux/btf.h` at v7.1.

use std::fmt;
use std::hash::Hasher;
use std::ops::Range;

use super::Root;
pub use header::BtfError;
use header::Header;
use record::{Kind, Record, u32_at};

#[cfg(test)]
mod builder;
mod header;
mod record;
#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;
mod walk;

/// Where the kernel publishes its own BTF (`CONFIG_DEBUG_INFO_BTF`).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Where a member lies in its outermost struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberOffset {
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Bytes it takes; for an array without index, the whole array.
    pub size: u32,
}

/// Where a bitfield lies: the `bits` bits from bit `shift` (0 is the lowest) of the byte at `offset` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bitfield {
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Bits to shift right, 0 to 7.
    pub shift: u32,
    /// Width in bits; with `shift` above 8 it reaches into the next byte.
    pub bits: u32,
}

/// One argument of a raw tracepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParamType {
    /// An integer, `bool` or enum.
    Int {
        /// Bytes.
        size: u32,
        /// Whether it is signed.
        signed: bool,
    },
    /// A pointer, and the name of the struct or union it points to, if it points to a named one.
    Pointer {
        /// For `const struct request *`: `request`. `None` for `void *`, `char *` and pointers to pointers.
        pointee: Option<String>,
    },
    /// Anything else (a struct by value, a float, `...`).
    Other,
}

/// Parsed BTF of one kernel. About 7 MB while it lives; drop it once the offsets are known.
pub struct Btf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Byte offset of type `i + 1` (id 0 is `void`).
    offsets: Vec<u32>,
    /// Hash of the name and id, sorted, of every named struct, union and typedef, and of every enum.
    names: Vec<(u32, u32)>,
    /// Whether the encoder states the sign of enums (pahole 1.24 and later). An older one leaves the flag clear on
    /// negative enums too, so that a clear flag means "unsigned" only when some enum of the file has it set.
    knows_enum_sign: bool,
}

impl Btf {
    /// Reads and parses the BTF of the kernel under `root`. Once per process: after the first large block is freed,
    /// glibc serves later ones from the heap and keeps them (6 MB more resident after a second load, measured).
    ///
    /// # Errors
    /// [`BtfError::Read`] if there is none, else as [`Btf::parse`].
    pub fn load(root: &Root) -> Result<Self, BtfError> {
        let path = root.path(VMLINUX);
        let bytes = std::fs::read(&path).map_err(|source| BtfError::Read { path, source })?;
        Self::parse(bytes)
    }

    /// Checks the header and indexes the types.
    ///
    /// # Errors
    /// Any [`BtfError`] but `Read`.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let header = Header::parse(&bytes)?;
        let mut btf = Self {
            strings: header.strings,
            offsets: Vec::with_capacity(header.types.len() / 24),
            names: Vec::new(),
            knows_enum_sign: false,
            bytes,
        };
        btf.index(header.types, header.layout)?;
        btf.names.sort_unstable();
        Ok(btf)
    }

    /// Number of types, without `void`.
    pub fn type_count(&self) -> usize {
        self.offsets.len()
    }

    /// Whether a struct or union of this name exists.
    pub fn has_struct(&self, name: &str) -> bool {
        self.named(name, &[Kind::STRUCT, Kind::UNION]).next().is_some()
    }

    /// Bytes of the struct or union; `None` if it is unknown or two of this name disagree.
    pub fn struct_size(&self, name: &str) -> Option<u32> {
        unanimous(self.named(name, &[Kind::STRUCT, Kind::UNION]).map(|t| t.size_or_type))
    }

    /// Whether a typedef of this name exists (`btf_trace_...`: whether the kernel has that raw tracepoint).
    pub fn typedef_exists(&self, name: &str) -> bool {
        self.named(name, &[Kind::TYPEDEF]).next().is_some()
    }

    /// Where `path` lies in struct (or union) `strukt`.
    ///
    /// `path` names members with dots (`__sk_common.skc_daddr`), array elements with `[n]`. Anonymous structs and
    /// unions are looked through. `None` if there is no such member, a pointer would have to be followed, the index
    /// is out of range, or the member is a bitfield (see [`Btf::bitfield`]).
    pub fn member_offset(&self, strukt: &str, path: &str) -> Option<MemberOffset> {
        unanimous(self.named(strukt, &[Kind::STRUCT, Kind::UNION]).filter_map(|start| {
            let place = self.walk(start, path)?;
            let whole = place.bits == 0 && place.bit_offset % 8 == 0;
            let size = self.size_of(place.type_id)?;
            whole.then_some(MemberOffset { offset: place.bit_offset / 8, size })
        }))
    }

    /// Where the bitfield `path` lies in `strukt` (`inet_connection_sock.icsk_ca_state` is one). `None` for whole
    /// members, and on big-endian machines, which count bits from the other end.
    pub fn bitfield(&self, strukt: &str, path: &str) -> Option<Bitfield> {
        if cfg!(target_endian = "big") {
            return None;
        }
        unanimous(self.named(strukt, &[Kind::STRUCT, Kind::UNION]).filter_map(|start| {
            let place = self.walk(start, path).filter(|place| place.bits != 0)?;
            Some(Bitfield { offset: place.bit_offset / 8, shift: place.bit_offset % 8, bits: place.bits })
        }))
    }

    /// Value of an enum constant. An empty `enum_name` searches all anonymous enums (`MM_ANONPAGES` lives in one).
    /// 64-bit values above `i64::MAX` come out as their two's complement.
    pub fn enum_value(&self, enum_name: &str, variant: &str) -> Option<i64> {
        let enums = self.named(enum_name, &[Kind::ENUM, Kind::ENUM64]);
        unanimous(enums.filter_map(|e| self.variant(&e, variant)))
    }

    /// Every constant of an enum with its value; empty if it is unknown.
    pub fn enum_constants(&self, enum_name: &str) -> Vec<(String, i64)> {
        let Some(found) = self.named(enum_name, &[Kind::ENUM, Kind::ENUM64]).next() else { return Vec::new() };
        self.constants(&found)
    }

    /// Arguments of the function type behind a typedef such as `btf_trace_mark_victim`, without the leading
    /// `void *__data` that every such typedef starts with.
    pub fn func_proto_of_typedef(&self, typedef_name: &str) -> Option<Vec<ParamType>> {
        unanimous(self.named(typedef_name, &[Kind::TYPEDEF]).filter_map(|typedef| {
            let pointer = self.plain(typedef.size_or_type).filter(|t| t.kind == Kind::PTR)?;
            let proto = self.plain(pointer.size_or_type).filter(|t| t.kind == Kind::FUNC_PROTO)?;
            (1..proto.vlen).map(|i| Some(self.param(u32_at(&self.bytes, proto.element(i) + 4)?))).collect()
        }))
    }

    fn index(&mut self, types: Range<usize>, layout: Range<usize>) -> Result<(), BtfError> {
        let mut at = types.start;
        let mut id = 0u32;
        while at < types.end {
            id += 1;
            let truncated = BtfError::Truncated { id, at };
            let Some(record) = Record::read(&self.bytes, at) else { return Err(truncated) };
            let body = record
                .body_len(self.bytes.get(layout.clone()).unwrap_or_default())
                .ok_or(BtfError::UnknownKind { id, kind: record.kind.0 })?;
            let next = record.body + body;
            let (Ok(offset), true) = (u32::try_from(at), next <= types.end) else { return Err(truncated) };
            self.offsets.push(offset);
            self.index_name(id, &record);
            at = next;
        }
        Ok(())
    }

    fn index_name(&mut self, id: u32, record: &Record) {
        let name = match record.kind {
            Kind::ENUM | Kind::ENUM64 => {
                self.knows_enum_sign |= record.flag;
                self.string(record.name)
            }
            Kind::STRUCT | Kind::UNION | Kind::TYPEDEF if record.name != 0 => self.string(record.name),
            _ => return,
        };
        let hash = name_hash(name);
        self.names.push((hash, id));
    }

    /// The bytes of a name, without its NUL; empty when the offset is bad.
    fn string(&self, offset: u32) -> &[u8] {
        let tail = self.strings.start.checked_add(offset as usize).and_then(|at| self.bytes.get(at..self.strings.end));
        let tail = tail.unwrap_or_default();
        &tail[..tail.iter().position(|&b| b == 0).unwrap_or(tail.len())]
    }

    fn get(&self, id: u32) -> Option<Record> {
        let at = *self.offsets.get(id.checked_sub(1)? as usize)?;
        Record::read(&self.bytes, at as usize)
    }

    fn named<'a>(&'a self, name: &'a str, kinds: &'a [Kind]) -> impl Iterator<Item = Record> + 'a {
        let hash = name_hash(name.as_bytes());
        let start = self.names.partition_point(|entry| entry.0 < hash);
        let same_hash = self.names[start..].iter().take_while(move |entry| entry.0 == hash);
        same_hash
            .filter_map(|entry| self.get(entry.1))
            .filter(move |record| kinds.contains(&record.kind) && self.string(record.name) == name.as_bytes())
    }
}

impl fmt::Debug for Btf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Btf({} bytes, {} types, {} named)", self.bytes.len(), self.offsets.len(), self.names.len())
    }
}

/// The one answer that all give; `None` without answers or when they differ.
fn unanimous<T: PartialEq>(mut answers: impl Iterator<Item = T>) -> Option<T> {
    let first = answers.next()?;
    answers.all(|other| other == first).then_some(first)
}

fn name_hash(name: &[u8]) -> u32 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(name);
    (hasher.finish() >> 32) as u32
}
