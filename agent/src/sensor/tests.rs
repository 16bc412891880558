//! Drift: what the specs say is what the compiled object holds.

use std::collections::BTreeSet;

use faultline_common::offsets::Offsets;

use super::*;

fn object() -> aya_obj_names::Names {
    aya_obj_names::read(OBJECT_BYTES)
}

/// Names in the object, read from its symbol table.
mod aya_obj_names {
    use std::collections::BTreeSet;

    pub struct Names {
        pub all: BTreeSet<String>,
    }

    /// All NUL-terminated strings of the object that look like symbols: enough to see that a name is there.
    pub fn read(bytes: &[u8]) -> Names {
        let words = bytes.split(|b| !(b.is_ascii_alphanumeric() || *b == b'_'));
        Names { all: words.filter_map(|w| std::str::from_utf8(w).ok()).map(str::to_owned).collect() }
    }
}

#[test]
fn every_program_and_map_of_a_spec_is_in_the_object() {
    let names = object().all;
    for spec in SENSORS {
        for program in spec.rungs.iter().flat_map(|r| r.programs) {
            assert!(names.contains(program.program), "{} of {} is not in the object", program.program, spec.name);
        }
        for map in spec.maps.iter().chain(&COMMON_MAPS) {
            assert!(names.contains(*map), "map {map} of {} is not in the object", spec.name);
        }
    }
}

#[test]
fn numbers_are_positions_and_words_are_unique() {
    for (position, spec) in SENSORS.iter().enumerate() {
        assert_eq!(usize::from(spec.number), position, "{}", spec.name);
    }
    let words: BTreeSet<_> = SENSORS.iter().map(|s| s.name).collect();
    assert_eq!(words.len(), SENSORS.len());
}

#[test]
fn offsets_and_fields_named_by_rungs_exist() {
    for spec in SENSORS {
        let (fields, _) = crate::decode::layout(spec.number).expect("every sensor has a layout");
        for rung in spec.rungs {
            for offset in rung.needs.iter().flat_map(|g| g.iter()).chain(rung.wants.iter().flat_map(|w| w.1)) {
                assert!(Offsets::NONE.get(offset).is_some(), "{}: no offset {offset}", spec.name);
            }
            for field in rung.wants.iter().map(|w| w.0).chain(rung.never.iter().copied()) {
                assert!(fields.iter().any(|f| f.name == field), "{}: no field {field}", spec.name);
            }
        }
    }
}
