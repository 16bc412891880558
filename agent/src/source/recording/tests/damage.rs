//! Recordings that were cut, flipped, rearranged or forged: the intact prefix or an error, never a wrong record.

use super::super::block::{self, HEAD_LEN, Head};
use super::*;

/// Where the blocks of `bytes` start, the end marker and the end of the file included.
fn boundaries(bytes: &[u8]) -> Result<Vec<usize>, RecordingError> {
    let (json, packed) = (block::get32(bytes, 12), block::get32(bytes, 16));
    let mut at = 32 + json as usize + packed as usize;
    let mut all = vec![at];
    while at < bytes.len() {
        at += HEAD_LEN + block::get32(bytes, at + 4) as usize;
        all.push(at);
    }
    assert_eq!(at, bytes.len());
    Ok(all)
}

#[test]
fn cut_anywhere_the_whole_blocks_are_read() -> Outcome {
    let (records, bytes) = sample()?;
    let starts = boundaries(&bytes)?;
    assert_eq!(starts.len(), 5, "three blocks, the end marker, the end");
    for len in 0..bytes.len() {
        let played = play(&bytes[..len]);
        if len < starts[0] {
            let refused = played.expect_err("the header is cut");
            assert!(matches!(refused, RecordingError::HeaderTorn { .. } | RecordingError::Empty { .. }));
            continue;
        }
        let whole = starts[1..].iter().filter(|&&start| start <= len).count();
        let expected = [0, 3, 6, 8, 8][whole];
        let (got, end) = played?;
        assert_eq!(got, records[..expected]);
        let after_seq = records[..expected].last().map(|last| last.seq);
        assert!(matches!(end, End::Torn { after_seq: after, .. } if after == after_seq), "{end} at {len}");
    }
    Ok(())
}

#[test]
fn no_single_flipped_bit_goes_unseen() -> Outcome {
    let (records, bytes) = sample()?;
    let header_len = boundaries(&bytes)?[0];
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match play(&flipped) {
            Err(_) => assert!(bit / 8 < header_len, "an error at bit {bit}, behind the header"),
            Ok((got, end)) => {
                assert!(bit / 8 >= header_len, "bit {bit} of the header was not seen");
                assert!(records.starts_with(&got), "a wrong record at bit {bit}");
                assert!(matches!(end, End::Damaged { .. }), "{end} at bit {bit}");
            }
        }
    }
    Ok(())
}

#[test]
fn blocks_cannot_be_moved_repeated_dropped_or_taken_from_elsewhere() -> Outcome {
    let (records, bytes) = sample()?;
    let at = boundaries(&bytes)?;
    let part = |nth: usize| &bytes[at[nth]..at[nth + 1]];
    let mut other = RecordingWriter::new(Vec::new(), &Header { possible_cpus: 9, ..header() })?;
    for record in &records[..3] {
        other.append(record.kind, record.seq, &record.body)?;
    }
    other.finish()?;
    let other = other.into_inner();
    let foreign = &other[boundaries(&other)?[0]..];

    let head = &bytes[..at[0]];
    let moved = [head, part(1), part(0), part(2), part(3)].concat();
    let repeated = [head, part(0), part(0), part(1)].concat();
    let dropped = [head, part(0), part(2), part(3)].concat();
    let ended_early = [head, part(0), part(3)].concat();
    let taken = [head, foreign].concat();
    let appended = [&bytes, part(0)].concat();
    for (case, forged, good) in [
        ("moved", moved, 0),
        ("repeated", repeated, 3),
        ("dropped", dropped, 3),
        ("ended early", ended_early, 3),
        ("taken", taken, 0),
        ("appended", appended, 8),
    ] {
        let (got, end) = play(&forged)?;
        assert_eq!(got, records[..good], "{case}");
        assert!(matches!(end, End::Damaged { .. }), "{case}: {end}");
    }
    Ok(())
}

#[test]
fn a_tail_of_zeros_is_torn_and_one_of_anything_else_is_damaged() -> Outcome {
    let (records, bytes) = sample()?;
    let at = boundaries(&bytes)?;
    let mut tail = bytes[..at[3]].to_vec();
    tail.resize(at[3] + 10_000, 0);
    let (got, end) = play(&tail)?;
    assert_eq!(got, records);
    assert!(matches!(end, End::Torn { after_seq: Some(3100), .. }), "{end}");
    tail.push(1);
    let (got, end) = play(&tail)?;
    assert_eq!(got, records);
    assert!(matches!(end, End::Damaged { offset, .. } if offset == at[3] as u64), "{end}");
    Ok(())
}

/// The sample's header with one forged block behind it, all checksums right.
fn forge(raw_claim: u32, count: u32, payload: &[u8], packed_claim: Option<u32>) -> Result<Vec<u8>, RecordingError> {
    let (_, mut bytes) = sample()?;
    let header_len = boundaries(&bytes)?[0];
    bytes.truncate(header_len);
    let (head, _) = Head {
        is_end: false,
        packed_len: packed_claim.unwrap_or(payload.len() as u32),
        raw_len: raw_claim,
        count,
        first_seq: u64::MAX,
        payload_crc: crc32fast::hash(payload),
        chain: block::get32(&bytes, 28),
    }
    .encode();
    bytes.extend(head);
    bytes.extend(payload);
    Ok(bytes)
}

#[test]
fn forged_blocks_with_right_checksums_are_refused() -> Outcome {
    let pack = lz4_flex::block::compress;
    let two = [1, 0, 1, b'a', 1, 0, 1, b'b'];
    let (records, end) = play(&forge(8, 2, &pack(&two), None)?)?;
    assert_eq!((records.len(), matches!(end, End::Torn { .. })), (2, true), "the forger knows the format");

    let cases: [(&str, Vec<u8>); 9] = [
        ("too few records", forge(8, 3, &pack(&two), None)?),
        ("too many records", forge(8, 1, &pack(&two), None)?),
        ("no record", forge(8, 0, &pack(&two), None)?),
        ("a longer block", forge(9, 2, &pack(&two), None)?),
        ("a shorter block", forge(7, 2, &pack(&two), None)?),
        ("a huge block", forge(u32::MAX, 2, &pack(&two), None)?),
        ("a huge payload", forge(8, 2, &pack(&two), Some(u32::MAX))?),
        ("a body behind the end", forge(4, 1, &pack(&[1, 0, 0x7f, b'a']), None)?),
        ("a number beyond 64 bits", forge(4, 1, &pack(&[1, 1, 1, b'a']), None)?),
    ];
    for (case, bytes) in cases {
        let (records, end) = play(&bytes)?;
        assert!(records.len() < 2 && matches!(end, End::Damaged { .. }), "{case}: {end}");
    }
    Ok(())
}

#[test]
fn lengths_in_a_forged_header_reserve_no_memory() -> Outcome {
    let (_, bytes) = sample()?;
    for (field, value) in [(12, u32::MAX), (16, u32::MAX), (20, u32::MAX), (12, 16 << 20)] {
        let mut forged = bytes.clone();
        block::put32(&mut forged, field, value);
        let crc = crc32fast::hash(&forged[..28]);
        block::put32(&mut forged, 28, crc);
        let refused = play(&forged).expect_err("the header is forged");
        let torn = value == 16 << 20;
        assert_eq!(matches!(refused, RecordingError::HeaderTorn { .. }), torn, "{refused}");
        assert_eq!(matches!(refused, RecordingError::HeaderDamaged { .. }), !torn, "{refused}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn cut_records_of_any_kind_are_a_prefix(records in any_records(), at in 0.0..1.0) {
        let bytes = record(&records, &[])?;
        let len = (bytes.len() as f64 * at) as usize;
        if let Ok((got, end)) = play(&bytes[..len]) {
            prop_assert!(records.starts_with(&got));
            let torn = matches!(end, End::Torn { .. });
            prop_assert!(torn);
        } else {
            prop_assert!(len < boundaries(&bytes)?[0]);
        }
    }

    #[test]
    fn overwritten_bytes_never_make_a_wrong_record(
        at in any::<prop::sample::Index>(),
        junk in proptest::collection::vec(any::<u8>(), 1..64),
    ) {
        let (records, mut bytes) = sample()?;
        let at = at.index(bytes.len());
        let to = (at + junk.len()).min(bytes.len());
        bytes[at..to].copy_from_slice(&junk[..to - at]);
        if let Ok((got, _)) = play(&bytes) {
            prop_assert!(records.starts_with(&got));
        }
    }

    #[test]
    fn forged_payloads_never_panic(
        raw in proptest::collection::vec(any::<u8>(), 1..300),
        packed in proptest::collection::vec(any::<u8>(), 1..300),
        raw_len in 0..1_000_u32,
        count in 0..40_u32,
    ) {
        play(&forge(raw.len() as u32, count, &lz4_flex::block::compress(&raw), None)?)?;
        play(&forge(raw_len, count, &packed, None)?)?;
    }

    #[test]
    fn junk_is_never_a_recording(junk in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(play(&junk).is_err());
        let magic = [header::MAGIC.as_slice(), &junk].concat();
        prop_assert!(play(&magic).is_err());
    }
}
