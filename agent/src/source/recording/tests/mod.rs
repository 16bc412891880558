//! Tests of the recording format: arbitrary records in, recordings that were cut, flipped, forged or refused out.

mod damage;
mod files;

use proptest::prelude::*;

use super::*;

type Outcome = Result<(), RecordingError>;

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    kind: RecordKind,
    seq: u64,
    body: Vec<u8>,
}

pub(in crate::source) fn header() -> Header {
    Header {
        format: FORMAT,
        faultline_version: "0.1.0".into(),
        kernel_release: "6.12.0-test".into(),
        boot_id: "7f5bd0d6-0000-4000-8000-000000000000".into(),
        possible_cpus: 8,
        page_size: 4096,
        anchor: ClockAnchor { monotonic_ns: u64::MAX, realtime_ns: 1_700_000_000_000_000_001 },
        mode: "observe".into(),
        config_toml: "mode = \"observe\"\n".into(),
        sensors: vec![SensorTable {
            name: "oom_kill".into(),
            id: 2,
            size: 48,
            hook: None,
            health: "unsupported".into(),
            missing: vec!["anon_kb".into()],
            fields: vec![FieldSpec { name: "victim_pid".into(), offset: 8, size: 4 }],
        }],
        snapshot: vec![0, 1, 2, 0xff, 0xfe],
    }
}

/// A recording of `records`, with a block boundary before each index in `cuts`.
fn record(records: &[Owned], cuts: &[usize]) -> Result<Vec<u8>, RecordingError> {
    let mut writer = RecordingWriter::new(Vec::new(), &header())?;
    for (at, record) in records.iter().enumerate() {
        if cuts.contains(&at) {
            writer.flush_block()?;
        }
        writer.append(record.kind, record.seq, &record.body)?;
    }
    writer.finish()?;
    Ok(writer.into_inner())
}

fn play(bytes: &[u8]) -> Result<(Vec<Owned>, End), RecordingError> {
    let mut reader = RecordingReader::new(bytes)?;
    let mut records = Vec::new();
    while let Some(Record { kind, seq, body }) = reader.next()? {
        records.push(Owned { kind, seq, body: body.to_vec() });
    }
    assert_eq!(reader.next()?, None, "the end is final");
    Ok((records, reader.end()))
}

/// Eight small records in three blocks.
fn sample() -> Result<(Vec<Owned>, Vec<u8>), RecordingError> {
    let records: Vec<Owned> = (0..8)
        .map(|nth| Owned {
            kind: RecordKind::from_code(nth % 5 + 1),
            seq: 100 + u64::from(nth / 2) * 1_000,
            body: vec![nth; usize::from(nth) * 3],
        })
        .collect();
    let bytes = record(&records, &[3, 6])?;
    Ok((records, bytes))
}

fn any_records() -> impl Strategy<Value = Vec<Owned>> {
    let step = prop_oneof![4 => 0..3_u64, 1 => 0..u64::MAX / 64];
    let body = prop_oneof![
        8 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => (any::<u8>(), 0..100_000_usize).prop_map(|(byte, len)| vec![byte; len]),
        1 => proptest::collection::vec(any::<u8>(), 60_000..70_000),
    ];
    proptest::collection::vec((any::<u8>(), step, body), 0..40).prop_map(|parts| {
        let mut seq = 0;
        let number = |(code, step, body)| {
            seq += step;
            Owned { kind: RecordKind::from_code(code), seq, body }
        };
        parts.into_iter().map(number).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_was_appended_is_read(
        records in any_records(),
        cuts in proptest::collection::vec(0..40_usize, 0..4),
    ) {
        let bytes = record(&records, &cuts)?;
        prop_assert_eq!(play(&bytes)?, (records, End::Clean));
    }

    #[test]
    fn any_snapshot_comes_back(snapshot in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let header = Header { snapshot, ..header() };
        let mut writer = RecordingWriter::new(Vec::new(), &header)?;
        writer.finish()?;
        let bytes = writer.into_inner();
        let reader = RecordingReader::new(bytes.as_slice())?;
        prop_assert_eq!(reader.header(), &header);
    }

    #[test]
    fn varints_come_back(value in any::<u64>(), shift in 0..64_u32) {
        let value = value >> shift;
        let mut bytes = Vec::new();
        block::put_varint(&mut bytes, value);
        prop_assert_eq!(block::get_varint(&bytes), Some((value, bytes.len())));
        prop_assert_eq!(block::get_varint(&bytes[..bytes.len() - 1]), None);
    }
}

#[test]
fn a_varint_beyond_64_bits_is_refused() {
    let mut bytes = [0xff; 10];
    bytes[9] = 2;
    assert_eq!(block::get_varint(&bytes), None);
    assert_eq!(block::get_varint(&[0x80; 11]), None);
}

#[test]
fn kinds_and_gaps_come_back() {
    for code in 0..=u8::MAX {
        assert_eq!(RecordKind::from_code(code).code(), code);
    }
    let gap = Gap { count: 1, from_ns: u64::MAX, to_ns: 3 };
    let mut body = gap.encode().to_vec();
    assert_eq!(Gap::decode(&body[..Gap::LEN - 1]), None);
    body.extend([9, 9]);
    assert_eq!(Gap::decode(&body), Some(gap), "bytes of a later version are left alone");
}

#[test]
fn the_largest_body_fits_and_one_more_byte_does_not() -> Outcome {
    let mut writer = RecordingWriter::new(Vec::new(), &header())?;
    // Not compressible, so that the packed block is as large as it can be.
    let mut state = 1_u64;
    let mut body: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(MAX_BODY)
    .collect();
    writer.append(RecordKind::Input, u64::MAX, &body)?;
    body.push(0);
    let refused = writer.append(RecordKind::Input, u64::MAX, &body);
    assert!(matches!(refused, Err(RecordingError::RecordTooLarge { size, .. }) if size == MAX_BODY + 1));
    writer.append(RecordKind::Input, u64::MAX, &body[1..])?;
    writer.finish()?;
    let (records, end) = play(&writer.into_inner())?;
    assert_eq!(end, End::Clean);
    assert_eq!([&records[0].body, &records[1].body], [&body[..MAX_BODY], &body[1..]]);
    Ok(())
}

#[test]
fn a_falling_number_is_refused_and_the_rest_goes_on() -> Outcome {
    let mut writer = RecordingWriter::new(Vec::new(), &header())?;
    writer.append(RecordKind::Frame, 7, b"a")?;
    writer.flush_block()?;
    let refused = writer.append(RecordKind::Frame, 6, b"b");
    assert!(matches!(refused, Err(RecordingError::SeqFell { seq: 6, last: 7, .. })));
    writer.append(RecordKind::Annotation, 7, b"c")?;
    writer.finish()?;
    assert!(matches!(writer.append(RecordKind::Frame, 8, b""), Err(RecordingError::Stopped { .. })));
    assert!(matches!(writer.finish(), Err(RecordingError::Stopped { .. })));
    let (records, end) = play(&writer.into_inner())?;
    assert_eq!((records.len(), end), (2, End::Clean));
    Ok(())
}

#[test]
fn a_gap_is_a_record_like_any_other() -> Outcome {
    let gap = Gap { count: 12, from_ns: 5, to_ns: 9 };
    let mut writer = RecordingWriter::new(Vec::new(), &header())?;
    writer.append_gap(3, gap)?;
    writer.finish()?;
    let (records, _) = play(&writer.into_inner())?;
    assert_eq!((records[0].kind, Gap::decode(&records[0].body)), (RecordKind::Gap, Some(gap)));
    Ok(())
}

#[test]
fn similar_records_are_packed_well() -> Outcome {
    let mut writer = RecordingWriter::new(Vec::new(), &header())?;
    let start = writer.committed();
    for seq in 0..10_000_u64 {
        let mut frame = [0_u8; 64];
        frame[..8].copy_from_slice(&seq.wrapping_mul(1_000_003).to_le_bytes());
        writer.append(RecordKind::Frame, seq, &frame)?;
    }
    writer.finish()?;
    let packed = writer.committed() - start;
    assert!(packed < 10_000 * 67 / 4, "{packed} bytes for 670,000");
    Ok(())
}

#[test]
fn an_end_not_reached_is_not_called_clean() -> Outcome {
    let (_, bytes) = sample()?;
    let mut reader = RecordingReader::new(bytes.as_slice())?;
    assert!(matches!(reader.end(), End::Torn { after_seq: None, .. }));
    reader.next()?;
    assert!(matches!(reader.end(), End::Torn { after_seq: Some(100), .. }));
    Ok(())
}
