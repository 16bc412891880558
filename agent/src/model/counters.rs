//! Counters: the kernel-side counters as one reading. In a recording they stand by sensor word, and each row
//! says its length, so that a build with more sensors or more counters still reads what an older one wrote.

use faultline_common::{counter::COUNTERS, sensor::SENSORS};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeSeq};

use crate::sensor;

/// Sums over all CPUs of the kernel-side counters, since the programs were loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterReading {
    /// When they were read, ns.
    pub now_ns: u64,
    /// `[sensor][counter]`, see `faultline_common::counter`.
    pub sums: [[u64; COUNTERS]; SENSORS],
    /// Runs that the kernel itself skipped; `None` where it does not tell.
    pub missed: [Option<u64>; SENSORS],
}

/// One sensor in a recording.
type Row = (String, Vec<u64>, Option<u64>);

struct Rows<'a>(&'a CounterReading);

impl Serialize for Rows<'_> {
    /// By hand, because the reactor's tee must not allocate.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(SENSORS))?;
        for (number, (sums, missed)) in self.0.sums.iter().zip(&self.0.missed).enumerate() {
            rows.serialize_element(&(sensor::name(number as u16), sums.as_slice(), missed))?;
        }
        rows.end()
    }
}

impl Serialize for CounterReading {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.now_ns, Rows(self)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CounterReading {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (now_ns, rows) = <(u64, Vec<Row>)>::deserialize(deserializer)?;
        let mut reading = Self { now_ns, sums: [[0; COUNTERS]; SENSORS], missed: [None; SENSORS] };
        for (word, sums, missed) in rows {
            let Some(number) = sensor::number(&word).map(usize::from) else { continue };
            reading.sums[number].iter_mut().zip(sums).for_each(|(own, recorded)| *own = recorded);
            reading.missed[number] = missed;
        }
        Ok(reading)
    }
}

#[cfg(test)]
mod tests {
    use faultline_common::sensor::{OOM_KILL, PROCESS_EXIT};

    use super::*;

    #[test]
    fn survives_a_recording() {
        let sums = std::array::from_fn(|s| std::array::from_fn(|c| (s * 10 + c) as u64));
        let reading =
            CounterReading { now_ns: 7, sums, missed: std::array::from_fn(|s| (s % 2 == 0).then_some(s as u64)) };
        let bytes = postcard::to_stdvec(&reading).expect("plain numbers serialise");
        assert_eq!(postcard::from_bytes(&bytes), Ok(reading));
    }

    #[test]
    fn a_build_with_other_sensors_and_counters_is_read_by_word() {
        let rows: Vec<Row> = vec![
            ("process_exit".into(), vec![5; COUNTERS + 3], Some(2)),
            ("of_the_future".into(), vec![9; COUNTERS], None),
            ("oom_kill".into(), vec![4], None),
        ];
        let bytes = postcard::to_stdvec(&(7u64, rows)).expect("plain numbers serialise");
        let reading: CounterReading = postcard::from_bytes(&bytes).expect("a reading of another build");
        assert_eq!(reading.sums[usize::from(PROCESS_EXIT)], [5; COUNTERS]);
        assert_eq!(reading.sums[usize::from(OOM_KILL)][..2], [4, 0]);
        assert_eq!((reading.now_ns, reading.missed[usize::from(PROCESS_EXIT)]), (7, Some(2)));
    }
}
