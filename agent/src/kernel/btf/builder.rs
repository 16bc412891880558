//! In: types as a test names them. Out: the bytes of a BTF file, with the old or the new header.

use super::record::Kind;

/// Whether the members of a struct carry bitfield widths.
pub(super) const BITFIELDS: bool = true;

/// Writes types in order; each call returns the id that BTF gives them.
#[derive(Default)]
pub(super) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    last_id: u32,
    layout: Vec<u8>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    pub(super) fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// Any type at all: `flag`, `vlen`, size or type, and the words of the body.
    pub(super) fn raw(&mut self, name: &str, kind: u32, (flag, vlen): (bool, u32), third: u32, body: &[u32]) -> u32 {
        let name = self.name(name);
        let info = u32::from(flag) << 31 | kind << 24 | vlen;
        for word in [name, info, third].iter().chain(body) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn int(&mut self, name: &str, size: u32, signed: bool) -> u32 {
        self.raw(name, Kind::INT.0, (false, 0), size, &[(u32::from(signed) << 24) | (size * 8)])
    }

    pub(super) fn refer(&mut self, kind: Kind, name: &str, to: u32) -> u32 {
        self.raw(name, kind.0, (false, 0), to, &[])
    }

    pub(super) fn array(&mut self, element: u32, len: u32) -> u32 {
        self.raw("", Kind::ARRAY.0, (false, 0), 0, &[element, element, len])
    }

    /// Members as (name, type, bit offset word).
    pub(super) fn composite(
        &mut self,
        kind: Kind,
        name: &str,
        flag: bool,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let body: Vec<u32> = members.iter().flat_map(|m| [self.name(m.0), m.1, m.2]).collect();
        self.raw(name, kind.0, (flag, members.len() as u32), size, &body)
    }

    pub(super) fn strukt(&mut self, name: &str, size: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.composite(Kind::STRUCT, name, false, size, members)
    }

    pub(super) fn enumeration(&mut self, name: &str, signed: bool, variants: &[(&str, i32)]) -> u32 {
        let body: Vec<u32> = variants.iter().flat_map(|v| [self.name(v.0), v.1.cast_unsigned()]).collect();
        self.raw(name, Kind::ENUM.0, (signed, variants.len() as u32), 4, &body)
    }

    pub(super) fn enum64(&mut self, name: &str, variants: &[(&str, i64)]) -> u32 {
        let words = |value: i64| [value.cast_unsigned() as u32, (value.cast_unsigned() >> 32) as u32];
        let body: Vec<u32> = variants.iter().flat_map(|v| [self.name(v.0), words(v.1)[0], words(v.1)[1]]).collect();
        self.raw(name, Kind::ENUM64.0, (false, variants.len() as u32), 8, &body)
    }

    /// A typedef of a pointer to a function without result.
    pub(super) fn callback(&mut self, name: &str, params: &[u32]) -> u32 {
        let body: Vec<u32> = params.iter().flat_map(|&param| [0, param]).collect();
        let proto = self.raw("", Kind::FUNC_PROTO.0, (false, params.len() as u32), 0, &body);
        let pointer = self.refer(Kind::PTR, "", proto);
        self.refer(Kind::TYPEDEF, name, pointer)
    }

    /// States the lengths of a kind, as a 7.1 file may.
    pub(super) fn layout(&mut self, kind: u32, fixed: u8, each: u8) {
        let at = kind as usize * 4;
        self.layout.resize(self.layout.len().max(at + 4), 0);
        self.layout[at..at + 2].copy_from_slice(&[fixed, each]);
    }

    /// The file with a header of 24 bytes, or longer.
    pub(super) fn file(&self, hdr_len: u32) -> Vec<u8> {
        let (types, strings, layout) = (self.types.len() as u32, self.strings.len() as u32, self.layout.len() as u32);
        let mut out = vec![];
        out.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
        out.extend_from_slice(&[1, 0]);
        for word in [hdr_len, 0, types, types, strings, types + strings, layout] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.resize(hdr_len as usize, 0);
        [out, self.types.clone(), self.strings.clone(), self.layout.clone()].concat()
    }
}
