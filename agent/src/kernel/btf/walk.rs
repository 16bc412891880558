//! In: a type and a question. Out: the answer by following ids from record to record.
//!
//! Every loop here is bounded, since ids in broken BTF can form circles: chains by [`MAX_CHAIN`], members by
//! [`MAX_MEMBERS`].

use super::record::{Kind, Record, u32_at};
use super::{Btf, ParamType};

/// Longest chain of typedefs and qualifiers followed; real ones stay under ten.
const MAX_CHAIN: usize = 64;
/// Members looked at for one path segment. The largest kernel structs have some hundreds; a forged one that nests
/// itself ends here.
const MAX_MEMBERS: u32 = 1 << 16;

/// Where a member lies, to the bit.
pub(super) struct Place {
    /// Bits from the start of the outermost struct.
    pub(super) bit_offset: u32,
    /// Width of a bitfield; 0 for a whole member.
    pub(super) bits: u32,
    pub(super) type_id: u32,
}

impl Btf {
    /// The type behind typedefs and qualifiers; `None` for `void`.
    pub(super) fn plain(&self, mut id: u32) -> Option<Record> {
        for _ in 0..MAX_CHAIN {
            let record = self.get(id)?;
            if !record.kind.is_alias() {
                return Some(record);
            }
            id = record.size_or_type;
        }
        None
    }

    /// Bytes of a value of this type; `None` for `void`, functions and what overflows 32 bits.
    pub(super) fn size_of(&self, mut id: u32) -> Option<u32> {
        let mut count = 1u32;
        for _ in 0..MAX_CHAIN {
            let record = self.get(id)?;
            id = match record.kind {
                kind if kind.has_size() => return count.checked_mul(record.size_or_type),
                Kind::PTR => return count.checked_mul(size_of::<usize>() as u32),
                Kind::ARRAY => {
                    let (element, len) = self.array(&record)?;
                    count = count.checked_mul(len)?;
                    element
                }
                kind if kind.is_alias() => record.size_or_type,
                _ => return None,
            };
        }
        None
    }

    /// Element type and length of an array.
    fn array(&self, record: &Record) -> Option<(u32, u32)> {
        let is_array = record.kind == Kind::ARRAY;
        is_array.then_some((u32_at(&self.bytes, record.body)?, u32_at(&self.bytes, record.body + 8)?))
    }

    /// Where `path` leads from `start`. Only its last member may be a bitfield: nothing lies inside one.
    pub(super) fn walk(&self, start: Record, path: &str) -> Option<Place> {
        let mut place = Place { bit_offset: 0, bits: 0, type_id: 0 };
        let mut current = start;
        for segment in path.split('.') {
            let (name, indexes) = segment.split_at(segment.find('[').unwrap_or(segment.len()));
            let member = self.find_member(current, name)?;
            let bit_offset = place.bit_offset.checked_add(member.bit_offset)?;
            place = Place { bit_offset, ..member };
            for index in parse_indexes(indexes)? {
                place = self.element(place, index)?;
            }
            current = self.plain(place.type_id)?;
        }
        Some(place)
    }

    /// Element `index` of the array at `place`.
    fn element(&self, place: Place, index: u32) -> Option<Place> {
        let (type_id, len) = self.array(&self.plain(place.type_id)?)?;
        // A length of zero is a flexible array (`cgroup.ancestors`): it has no bound to check against.
        if len != 0 && index >= len {
            return None;
        }
        let bits = index.checked_mul(self.size_of(type_id)?)?.checked_mul(8)?;
        Some(Place { bit_offset: place.bit_offset.checked_add(bits)?, bits: 0, type_id })
    }

    /// A member by name, also inside anonymous members.
    fn find_member(&self, strukt: Record, name: &str) -> Option<Place> {
        let mut pending = vec![(strukt, 0u32)];
        let mut fuel = MAX_MEMBERS;
        while let Some((record, base)) = pending.pop() {
            let searched = record.kind.is_composite() && !name.is_empty();
            for i in 0..if searched { record.vlen } else { 0 } {
                fuel = fuel.checked_sub(1)?;
                let member = record.member(&self.bytes, i)?;
                let bit_offset = base.checked_add(member.bit_offset)?;
                if self.string(member.name) == name.as_bytes() {
                    let (bits, type_id) = (member.bits, member.type_id);
                    return (!self.is_narrow_int(type_id)).then_some(Place { bit_offset, bits, type_id });
                }
                if member.name == 0
                    && let Some(inner) = self.plain(member.type_id)
                {
                    pending.push((inner, bit_offset));
                }
            }
        }
        None
    }

    /// An integer of fewer bits than its bytes hold: how encoders before the member flag (2018) wrote a bitfield.
    /// No kernel that the agent supports has one; refused.
    fn is_narrow_int(&self, type_id: u32) -> bool {
        let Some(record) = self.plain(type_id).filter(|t| t.kind == Kind::INT) else { return false };
        let encoding = u32_at(&self.bytes, record.body).unwrap_or(0);
        let (bits, shift) = (encoding & 0xff, encoding >> 16 & 0xff);
        shift != 0 || u64::from(bits) != u64::from(record.size_or_type) * 8
    }

    pub(super) fn variant(&self, record: &Record, variant: &str) -> Option<i64> {
        let at = (0..record.vlen)
            .map(|i| record.element(i))
            .find(|&at| u32_at(&self.bytes, at).is_some_and(|name| self.string(name) == variant.as_bytes()))?;
        self.constant(record, at)
    }

    pub(super) fn constants(&self, record: &Record) -> Vec<(String, i64)> {
        let each = (0..record.vlen).map(|i| record.element(i));
        each.filter_map(|at| {
            let name = String::from_utf8_lossy(self.string(u32_at(&self.bytes, at)?)).into_owned();
            Some((name, self.constant(record, at)?))
        })
        .collect()
    }

    /// Value of the constant whose element starts at `at`.
    fn constant(&self, record: &Record, at: usize) -> Option<i64> {
        let low = u32_at(&self.bytes, at + 4)?;
        if record.kind == Kind::ENUM64 {
            let high = u32_at(&self.bytes, at + 8)?;
            return Some((u64::from(high) << 32 | u64::from(low)).cast_signed());
        }
        let signed = record.flag || !self.knows_enum_sign;
        Some(if signed { i64::from(low.cast_signed()) } else { i64::from(low) })
    }

    pub(super) fn param(&self, type_id: u32) -> ParamType {
        let Some(record) = self.plain(type_id) else { return ParamType::Other };
        match record.kind {
            Kind::INT => {
                let encoding = u32_at(&self.bytes, record.body).unwrap_or(0);
                ParamType::Int { size: record.size_or_type, signed: encoding >> 24 & 1 == 1 }
            }
            Kind::ENUM | Kind::ENUM64 => ParamType::Int { size: record.size_or_type, signed: record.flag },
            Kind::PTR => ParamType::Pointer { pointee: self.pointee(record.size_or_type) },
            _ => ParamType::Other,
        }
    }

    fn pointee(&self, type_id: u32) -> Option<String> {
        let record = self.plain(type_id).filter(|t| t.kind.is_composite() || t.kind == Kind::FWD)?;
        (record.name != 0).then(|| String::from_utf8_lossy(self.string(record.name)).into_owned())
    }
}

/// `[3][1]` to its numbers; `None` if it is anything else.
fn parse_indexes(text: &str) -> Option<Vec<u32>> {
    let Some(inner) = text.strip_prefix('[') else { return text.is_empty().then(Vec::new) };
    inner.strip_suffix(']')?.split("][").map(|number| number.parse().ok()).collect()
}
