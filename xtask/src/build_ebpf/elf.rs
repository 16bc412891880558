//! The little of ELF that the object needs: a table of its sections, and a copy without debug information.
//!
//! In: the bytes of a 64-bit little-endian relocatable object. Out: sections, or a smaller object. Own code because neither llvm-strip nor
//! rust-objcopy is certain to be on a machine. A dropped section keeps its place in the table as an empty `SHT_NULL`, so that symbols and
//! relocations, which name sections by number, stay right without being rewritten. BTF stays: the loader needs it, and it holds line numbers.

use anyhow::{Context, Result, bail};

const HEADER: usize = 64;
const ENTRY: usize = 64;
const SHT_NULL: u32 = 0;
const SHT_NOBITS: u32 = 8;

/// One section.
pub struct Section<'a> {
    /// Its name, empty if it has none.
    pub name: &'a str,
    /// Its bytes in the file; empty for `.bss`.
    pub data: &'a [u8],
    kind: u32,
    align: usize,
    entry: &'a [u8],
}

/// The sections in table order, the null section included.
///
/// # Errors
/// These are not the bytes of such an object, or they are cut short.
pub fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>> {
    if bytes.get(..6) != Some(&[0x7f, b'E', b'L', b'F', 2, 1]) {
        bail!("not a 64-bit little-endian ELF object");
    }
    let table = number(bytes, 0x28, 8)?;
    let count = number(bytes, 0x3c, 2)?;
    let names = number(bytes, 0x3e, 2)?;
    let entries = (0..count).map(|index| slice(bytes, table + index * ENTRY, ENTRY)).collect::<Result<Vec<_>>>()?;
    let strings = data(bytes, entries.get(names).context("the section of names is missing")?)?;
    entries.into_iter().map(|entry| section(bytes, entry, strings)).collect()
}

/// The same object without `.debug_*` and the relocations that belong to them.
///
/// # Errors
/// As [`sections`], or the object is not merely relocatable.
pub fn without_debug(bytes: &[u8]) -> Result<Vec<u8>> {
    let sections = sections(bytes)?;
    if number(bytes, 0x38, 2)? != 0 {
        bail!("the object has program headers; only relocatable objects can be stripped here");
    }
    let mut stripped = slice(bytes, 0, HEADER)?.to_vec();
    let mut table = Vec::with_capacity(sections.len() * ENTRY);
    for section in &sections {
        table.extend(copy(section, &mut stripped));
    }
    pad(&mut stripped, 8);
    let offset = stripped.len() as u64;
    stripped[0x28..0x30].copy_from_slice(&offset.to_le_bytes());
    stripped.extend(table);
    Ok(stripped)
}

/// Appends the section's data to `out` and returns its new table entry.
fn copy(section: &Section<'_>, out: &mut Vec<u8>) -> Vec<u8> {
    let mut entry = section.entry.to_vec();
    if section.name.starts_with(".debug_") || section.name.starts_with(".rel.debug_") {
        // The name stays, for people who look at the table.
        entry[4..].fill(0);
        return entry;
    }
    if section.kind != SHT_NULL {
        pad(out, section.align);
        let offset = out.len() as u64;
        entry[24..32].copy_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(section.data);
    }
    entry
}

fn section<'a>(bytes: &'a [u8], entry: &'a [u8], strings: &'a [u8]) -> Result<Section<'a>> {
    let name = strings.get(number(entry, 0, 4)?..).context("a section's name is out of range")?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Section {
        name: std::str::from_utf8(name).context("a section's name is not text")?,
        data: data(bytes, entry)?,
        kind: u32::try_from(number(entry, 4, 4)?)?,
        align: number(entry, 48, 8)?,
        entry,
    })
}

fn data<'a>(bytes: &'a [u8], entry: &[u8]) -> Result<&'a [u8]> {
    match u32::try_from(number(entry, 4, 4)?)? {
        SHT_NULL | SHT_NOBITS => Ok(&[]),
        _ => slice(bytes, number(entry, 24, 8)?, number(entry, 32, 8)?),
    }
}

fn slice(bytes: &[u8], start: usize, length: usize) -> Result<&[u8]> {
    let end = start.checked_add(length).context("a length overflows")?;
    bytes.get(start..end).with_context(|| format!("the object ends before byte {end}"))
}

/// A little-endian number of `width` bytes.
fn number(bytes: &[u8], start: usize, width: usize) -> Result<usize> {
    let mut value = [0; 8];
    value[..width].copy_from_slice(slice(bytes, start, width)?);
    Ok(usize::try_from(u64::from_le_bytes(value))?)
}

fn pad(out: &mut Vec<u8>, align: usize) {
    out.resize(out.len().next_multiple_of(align.max(1)), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object with the sections null, `.names` and `.debug_x`.
    fn object() -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        let names = b"\0.names\0.debug_x\0";
        bytes.extend_from_slice(names);
        bytes.extend_from_slice(b"DEBUG");
        let table = bytes.len() as u64;
        for (name, kind, offset, size) in
            [(0_u32, 0_u32, 0, 0), (1, 3, HEADER, names.len()), (8, 1, HEADER + names.len(), 5)]
        {
            let mut entry = vec![0; ENTRY];
            entry[..4].copy_from_slice(&name.to_le_bytes());
            entry[4..8].copy_from_slice(&kind.to_le_bytes());
            entry[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            entry[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            bytes.extend(entry);
        }
        bytes[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        bytes[0x3c..0x3e].copy_from_slice(&3_u16.to_le_bytes());
        bytes[0x3e..0x40].copy_from_slice(&1_u16.to_le_bytes());
        bytes
    }

    #[test]
    fn debug_sections_are_emptied_and_the_rest_keeps_its_number() {
        let stripped = without_debug(&object()).unwrap_or_default();
        let sections = sections(&stripped).unwrap_or_default();
        assert_eq!(sections.iter().map(|section| section.name).collect::<Vec<_>>(), ["", ".names", ".debug_x"]);
        assert_eq!(sections[1].data, b"\0.names\0.debug_x\0");
        assert_eq!(sections[2].data, b"");
    }

    #[test]
    fn a_cut_object_is_an_error() {
        let bytes = object();
        for length in 0..bytes.len() {
            assert!(sections(&bytes[..length]).is_err(), "{length} bytes passed for an object");
        }
    }
}
