//! Decode: a frame's bytes in, an [`Event`] or [`Malformed`] out. Never panics, whatever the bytes.
//!
//! Live frames have this build's layout. Recorded frames may come from another build: their field tables
//! (name, offset, size) are turned once into a copy plan, so that a field keeps its meaning by name, a new
//! field is marked missing, and a dropped one is left out.

use faultline_common::{
    event::{BlockIo, Field, Header, OomKill, PacketDrop, ProcessExit, TaskHang, TcpConnect, TcpReset, TcpRetransmit},
    sensor::{
        BLOCK_IO, OOM_KILL, PACKET_DROP, PROCESS_EXIT, SENSORS, TASK_HANG, TCP_CONNECT, TCP_RESET, TCP_RETRANSMIT,
    },
};
use thiserror::Error;

use crate::{model::event::Event, source::recording::SensorTable};

/// Longest record of any build, bytes.
pub const MAX_FRAME: usize = 512;

/// A frame that is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("frame of {len} bytes claiming sensor {sensor:?} is not a record of it")]
pub struct Malformed {
    /// The sensor it claims to be of, if that is a known one.
    pub sensor: Option<u16>,
    /// Its length in bytes.
    pub len: usize,
}

/// A recording's field table that this build cannot use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// A field lies outside its record.
    #[error(
        "sensor {sensor}: field {field} lies outside its record of {size} bytes; the recording's header is damaged"
    )]
    OutOfRecord {
        /// Sensor word.
        sensor: String,
        /// Field name.
        field: String,
        /// Record size in the table.
        size: u32,
    },
}

/// Turns frames into events.
#[derive(Debug)]
pub struct Decoder {
    /// By the *recorded* sensor number: how to bring a frame into this build's layout.
    plans: Option<Vec<Plan>>,
}

#[derive(Debug)]
struct Plan {
    recorded_id: u16,
    recorded_size: usize,
    sensor: u16,
    size: usize,
    copies: Vec<Copy>,
    /// Recorded bit to own bit of the `missing` mask.
    bits: Vec<(u32, u32)>,
    /// Own fields that the recording does not have.
    absent: u64,
}

#[derive(Debug)]
struct Copy {
    from: usize,
    to: usize,
    len: usize,
}

/// This build's field table and record size of a sensor.
pub fn layout(sensor: u16) -> Option<(&'static [Field], usize)> {
    match sensor {
        PROCESS_EXIT => Some((ProcessExit::FIELDS, size_of::<ProcessExit>())),
        OOM_KILL => Some((OomKill::FIELDS, size_of::<OomKill>())),
        BLOCK_IO => Some((BlockIo::FIELDS, size_of::<BlockIo>())),
        TCP_RETRANSMIT => Some((TcpRetransmit::FIELDS, size_of::<TcpRetransmit>())),
        TASK_HANG => Some((TaskHang::FIELDS, size_of::<TaskHang>())),
        TCP_CONNECT => Some((TcpConnect::FIELDS, size_of::<TcpConnect>())),
        TCP_RESET => Some((TcpReset::FIELDS, size_of::<TcpReset>())),
        PACKET_DROP => Some((PacketDrop::FIELDS, size_of::<PacketDrop>())),
        _ => None,
    }
}

impl Decoder {
    /// For frames of this build.
    pub fn live() -> Self {
        Self { plans: None }
    }

    /// For frames described by a recording's tables; sensors unknown to this build decode as malformed.
    ///
    /// # Errors
    /// [`TableError`] when a table contradicts itself.
    pub fn for_recording(tables: &[SensorTable]) -> Result<Self, TableError> {
        let mut plans = Vec::new();
        for table in tables {
            if let Some(sensor) = crate::sensor::number(&table.name) {
                plans.push(plan(table, sensor)?);
            }
        }
        Ok(Self { plans: Some(plans) })
    }

    /// Decodes one frame.
    ///
    /// # Errors
    /// [`Malformed`] when the length or the sensor number is not that of a record.
    pub fn decode(&self, frame: &[u8]) -> Result<Event, Malformed> {
        match &self.plans {
            None => decode(frame),
            Some(plans) => decode_by_plan(plans, frame),
        }
    }
}

fn decode(frame: &[u8]) -> Result<Event, Malformed> {
    let sensor = claimed_sensor(frame).filter(|s| usize::from(*s) < SENSORS);
    let malformed = Malformed { sensor, len: frame.len() };
    let event = match sensor {
        Some(PROCESS_EXIT) => ProcessExit::from_bytes(frame).map(Event::ProcessExit),
        Some(OOM_KILL) => OomKill::from_bytes(frame).map(Event::OomKill),
        Some(BLOCK_IO) => BlockIo::from_bytes(frame).map(Event::BlockIo),
        Some(TCP_RETRANSMIT) => TcpRetransmit::from_bytes(frame).map(Event::TcpRetransmit),
        Some(TASK_HANG) => TaskHang::from_bytes(frame).map(Event::TaskHang),
        Some(TCP_CONNECT) => TcpConnect::from_bytes(frame).map(Event::TcpConnect),
        Some(TCP_RESET) => TcpReset::from_bytes(frame).map(Event::TcpReset),
        Some(PACKET_DROP) => PacketDrop::from_bytes(frame).map(Event::PacketDrop),
        _ => None,
    };
    event.filter(|e| e.header().len as usize == frame.len()).ok_or(malformed)
}

/// The sensor number in a frame's header, not yet checked.
fn claimed_sensor(frame: &[u8]) -> Option<u16> {
    frame.get(..size_of::<Header>()).and_then(Header::from_bytes).map(|h| h.sensor)
}

fn decode_by_plan(plans: &[Plan], frame: &[u8]) -> Result<Event, Malformed> {
    let malformed = Malformed { sensor: None, len: frame.len() };
    let claimed = claimed_sensor(frame).ok_or(malformed)?;
    let plan = plans.iter().find(|p| p.recorded_id == claimed).ok_or(malformed)?;
    if frame.len() != plan.recorded_size {
        return Err(Malformed { sensor: Some(plan.sensor), len: frame.len() });
    }
    let mut own = [0u8; MAX_FRAME];
    for copy in &plan.copies {
        own[copy.to..copy.to + copy.len].copy_from_slice(&frame[copy.from..copy.from + copy.len]);
    }
    let recorded = Header::from_bytes(&frame[..size_of::<Header>()]).ok_or(malformed)?;
    if recorded.len as usize != plan.recorded_size {
        // The live run called such a frame malformed, too.
        return Err(Malformed { sensor: Some(plan.sensor), len: frame.len() });
    }
    let header = Header {
        sensor: plan.sensor,
        len: plan.size as u32,
        missing: plan.missing(recorded.missing),
        pad: 0,
        ..recorded
    };
    own[..size_of::<Header>()].copy_from_slice(header.as_bytes());
    decode(&own[..plan.size])
}

impl Plan {
    fn missing(&self, recorded: u64) -> u64 {
        let known = self.bits.iter().filter(|(theirs, _)| recorded >> theirs & 1 == 1);
        known.fold(self.absent, |mask, (_, own)| mask | 1 << own)
    }
}

fn plan(table: &SensorTable, sensor: u16) -> Result<Plan, TableError> {
    let (fields, size) = layout(sensor).unwrap_or((&[], 0));
    let mut plan = Plan {
        recorded_id: table.id,
        recorded_size: table.size as usize,
        sensor,
        size,
        copies: Vec::new(),
        bits: Vec::new(),
        absent: 0,
    };
    for (own_bit, own) in fields.iter().enumerate() {
        match table.fields.iter().enumerate().find(|(_, f)| f.name == own.name) {
            Some((their_bit, theirs)) => {
                let end = theirs.offset.checked_add(theirs.size).filter(|end| *end <= table.size);
                if end.is_none() || their_bit >= 64 {
                    return Err(TableError::OutOfRecord {
                        sensor: table.name.clone(),
                        field: theirs.name.clone(),
                        size: table.size,
                    });
                }
                plan.copies.push(Copy {
                    from: theirs.offset as usize,
                    to: own.offset as usize,
                    // Little-endian: a wider or narrower integer keeps its low bytes.
                    len: theirs.size.min(own.size) as usize,
                });
                plan.bits.push((their_bit as u32, own_bit as u32));
            }
            None => plan.absent |= 1 << own_bit,
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use faultline_common::event::COMM_LEN;
    use proptest::prelude::*;

    use super::*;
    use crate::source::recording::FieldSpec;

    fn exit(pid: u32) -> ProcessExit {
        ProcessExit {
            header: Header {
                ktime_ns: 7,
                cgroup_id: 3,
                missing: 0,
                sensor: PROCESS_EXIT,
                flags: 0,
                cpu: 1,
                len: size_of::<ProcessExit>() as u32,
                pad: 0,
            },
            start_ns: 5,
            parent_cgroup_id: 4,
            pid,
            ppid: 1,
            uid: 0,
            exit_code: 11,
            comm: *b"x\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    fn table(fields: Vec<FieldSpec>, size: u32) -> SensorTable {
        SensorTable {
            name: "process_exit".into(),
            id: 9,
            size,
            hook: None,
            health: "ok".into(),
            missing: vec![],
            fields,
        }
    }

    fn field(name: &str, offset: u32, size: u32) -> FieldSpec {
        FieldSpec { name: name.into(), offset, size }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_malformed(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Decoder::live().decode(&bytes);
        }

        #[test]
        fn a_record_decodes_to_itself(pid in any::<u32>()) {
            let record = exit(pid);
            prop_assert_eq!(Decoder::live().decode(record.as_bytes()), Ok(Event::ProcessExit(record)));
        }

        #[test]
        fn a_cut_record_is_malformed(cut in 0usize..size_of::<ProcessExit>()) {
            prop_assert!(Decoder::live().decode(&exit(1).as_bytes()[..cut]).is_err());
        }
    }

    #[test]
    fn an_older_layout_decodes_by_name() {
        // An older build: other sensor number, `pid` elsewhere and of 8 bytes, no `uid`, no `comm`.
        let tables = [table(vec![field("ktime_ns", 0, 8), field("exit_code", 48, 4), field("pid", 40, 8)], 52)];
        let decoder = Decoder::for_recording(&tables).expect("a sound table");
        let mut frame = vec![0u8; 52];
        frame[..40].copy_from_slice(Header { sensor: 9, len: 52, missing: 0b010, ..exit(0).header }.as_bytes());
        frame[40..48].copy_from_slice(&77u64.to_le_bytes());
        frame[48..52].copy_from_slice(&11u32.to_le_bytes());
        let Ok(Event::ProcessExit(e)) = decoder.decode(&frame) else { panic!("must decode") };
        assert_eq!((e.pid, e.comm, e.header.sensor), (77, [0; COMM_LEN], PROCESS_EXIT));
        let missing = const { ProcessExit::bit("uid") } | const { ProcessExit::bit("exit_code") };
        assert_eq!(e.header.missing & missing, missing, "absent here, and missing there, are both missing");
        assert_eq!(e.header.missing & const { ProcessExit::bit("pid") }, 0);
        frame[..40].copy_from_slice(Header { sensor: 9, len: 44, ..exit(0).header }.as_bytes());
        assert!(decoder.decode(&frame).is_err(), "its header says another length");
    }

    #[test]
    fn a_table_that_points_outside_is_refused() {
        let error = Decoder::for_recording(&[table(vec![field("pid", u32::MAX, 8)], 52)]).unwrap_err();
        assert!(error.to_string().contains("pid"));
    }
}
