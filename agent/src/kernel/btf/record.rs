//! In: bytes of a BTF type section. Out: one type record at a time, its length, and its parts.
//!
//! The only place that knows the wire layout (`include/uapi/linux/btf.h`). A record is a 12-byte head
//! (name, info, size or type) and a body whose length follows from kind and count.

/// Bytes of the part that all kinds share.
const HEAD: usize = 12;

/// Kind of a type, as the kernel numbers it. A number rather than an enum: kinds newer than this code are walked
/// over by the lengths that the file states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind(pub(super) u32);

impl Kind {
    pub(super) const INT: Self = Self(1);
    pub(super) const PTR: Self = Self(2);
    pub(super) const ARRAY: Self = Self(3);
    pub(super) const STRUCT: Self = Self(4);
    pub(super) const UNION: Self = Self(5);
    pub(super) const ENUM: Self = Self(6);
    pub(super) const FWD: Self = Self(7);
    pub(super) const TYPEDEF: Self = Self(8);
    pub(super) const VOLATILE: Self = Self(9);
    pub(super) const CONST: Self = Self(10);
    pub(super) const RESTRICT: Self = Self(11);
    pub(super) const FUNC: Self = Self(12);
    pub(super) const FUNC_PROTO: Self = Self(13);
    pub(super) const VAR: Self = Self(14);
    pub(super) const DATASEC: Self = Self(15);
    pub(super) const FLOAT: Self = Self(16);
    pub(super) const DECL_TAG: Self = Self(17);
    pub(super) const TYPE_TAG: Self = Self(18);
    pub(super) const ENUM64: Self = Self(19);

    /// Another name or a qualifier of the type it refers to.
    pub(super) fn is_alias(self) -> bool {
        matches!(self, Self::TYPEDEF | Self::VOLATILE | Self::CONST | Self::RESTRICT | Self::TYPE_TAG)
    }

    /// Has members.
    pub(super) fn is_composite(self) -> bool {
        matches!(self, Self::STRUCT | Self::UNION)
    }

    /// The third word of the head is a size in bytes (else it is a type id, or nothing).
    pub(super) fn has_size(self) -> bool {
        matches!(self, Self::INT | Self::STRUCT | Self::UNION | Self::ENUM | Self::FLOAT | Self::ENUM64)
    }

    /// Bytes of the fixed part of the body and of each of its `vlen` elements.
    fn sizes(self) -> Option<(usize, usize)> {
        Some(match self {
            Self::PTR | Self::FWD | Self::FUNC | Self::FLOAT => (0, 0),
            kind if kind.is_alias() => (0, 0),
            Self::INT | Self::VAR | Self::DECL_TAG => (4, 0),
            Self::ARRAY => (12, 0),
            Self::STRUCT | Self::UNION | Self::DATASEC | Self::ENUM64 => (0, 12),
            Self::ENUM | Self::FUNC_PROTO => (0, 8),
            _ => return None,
        })
    }
}

/// Head of one type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// Offset into the strings; 0 is anonymous.
    pub(super) name: u32,
    pub(super) kind: Kind,
    /// Number of members, variants or parameters. (FUNC keeps its linkage here.)
    pub(super) vlen: u32,
    /// Meaning by kind: structs carry bitfield sizes, enums are signed.
    pub(super) flag: bool,
    /// Size in bytes or the id of the type referred to, by kind.
    pub(super) size_or_type: u32,
    /// Where the body starts in the file.
    pub(super) body: usize,
}

/// One member of a struct or union.
pub(super) struct Member {
    pub(super) name: u32,
    pub(super) type_id: u32,
    pub(super) bit_offset: u32,
    /// Width of a bitfield, 0 for a whole member.
    pub(super) bits: u32,
}

impl Record {
    pub(super) fn read(bytes: &[u8], at: usize) -> Option<Self> {
        let info = u32_at(bytes, at + 4)?;
        Some(Self {
            name: u32_at(bytes, at)?,
            // 24 and 7 bits since 7.1; before, 16 and 5 with the rest zero.
            kind: Kind(info >> 24 & 0x7f),
            vlen: info & 0xff_ffff,
            flag: info >> 31 == 1,
            size_or_type: u32_at(bytes, at + 8)?,
            body: at + HEAD,
        })
    }

    /// Bytes of the body. `layout` has four bytes a kind (fixed, per element, flags) and is asked only for kinds
    /// unknown here; `None` if it does not know them either.
    pub(super) fn body_len(&self, layout: &[u8]) -> Option<usize> {
        let (fixed, each) = match self.kind.sizes() {
            Some(sizes) => sizes,
            None => {
                // Kind 0 is never valid, whatever a layout section says of it.
                let at = (self.kind.0 as usize).checked_mul(4).filter(|&at| at != 0)?;
                (usize::from(*layout.get(at)?), usize::from(*layout.get(at + 1)?))
            }
        };
        Some(fixed + each * self.vlen as usize)
    }

    /// Where element `i` of the body lies in the file.
    pub(super) fn element(&self, i: u32) -> usize {
        let each = self.kind.sizes().map_or(0, |sizes| sizes.1);
        self.body + each * i as usize
    }

    pub(super) fn member(&self, bytes: &[u8], i: u32) -> Option<Member> {
        let at = self.element(i);
        let offset = u32_at(bytes, at + 8)?;
        let (bits, bit_offset) = if self.flag { (offset >> 24, offset & 0xff_ffff) } else { (0, offset) };
        Some(Member { name: u32_at(bytes, at)?, type_id: u32_at(bytes, at + 4)?, bit_offset, bits })
    }
}

/// Two bytes in this machine's order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    two.try_into().ok().map(u16::from_ne_bytes)
}

/// Four bytes in this machine's order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    four.try_into().ok().map(u32::from_ne_bytes)
}
