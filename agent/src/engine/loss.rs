//! The ledger of losses. In: the kernel-side counters and malformed frames. Out: `Loss` for each difference.
//! Remembers when a sensor last lost something, so that verdicts of that time are held less sure.
#![forbid(unsafe_code)]

use faultline_common::{
    counter::{INSERT_FAILED, LIMITED, RING_FULL},
    sensor::SENSORS,
};

use crate::model::{
    input::CounterReading,
    output::{Loss, LossReason, Output},
    snapshot::{Loader, Saver, SnapshotError},
};

/// How long a loss lowers confidence, ns.
const LOSSY_NS: u64 = 10_000_000_000;

/// What was lost so far.
#[derive(Debug, Default)]
pub struct Ledger {
    last: Option<CounterReading>,
    last_loss_ns: [Option<u64>; SENSORS],
}

impl Ledger {
    /// Appends the book.
    pub fn save(&self, to: &mut Saver<'_>) {
        to.put(&self.last);
        to.put(&self.last_loss_ns);
    }

    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        (self.last, self.last_loss_ns) = (from.take()?, from.take()?);
        Ok(())
    }

    /// Compares a reading with the one before it.
    pub fn counters(&mut self, reading: &CounterReading, out: &mut Vec<Output>) {
        for sensor in 0..SENSORS {
            for (counter, reason) in [
                (RING_FULL, LossReason::RingFull),
                (LIMITED, LossReason::Limited),
                (INSERT_FAILED, LossReason::InsertFailed),
            ] {
                if counter == LIMITED && crate::sensor::SENSORS[sensor].sampled {
                    continue;
                }
                let before = self.last.map_or(0, |l| l.sums[sensor][counter]);
                self.note(sensor, reading.sums[sensor][counter].saturating_sub(before), reason, reading, out);
            }
            let before = self.last.and_then(|l| l.missed[sensor]).unwrap_or(0);
            let missed = reading.missed[sensor].unwrap_or(0).saturating_sub(before);
            self.note(sensor, missed, LossReason::Missed, reading, out);
        }
        self.last = Some(*reading);
    }

    fn note(&mut self, sensor: usize, count: u64, reason: LossReason, now: &CounterReading, out: &mut Vec<Output>) {
        if count == 0 {
            return;
        }
        self.last_loss_ns[sensor] = Some(now.now_ns);
        out.push(Output::Loss(Loss {
            sensor: Some(sensor as u16),
            count,
            reason,
            from_ns: self.last.map_or(now.now_ns, |l| l.now_ns),
            to_ns: now.now_ns,
        }));
    }

    /// A frame did not decode.
    pub fn malformed(&mut self, sensor: Option<u16>, now_ns: u64, out: &mut Vec<Output>) {
        if let Some(last) = sensor.and_then(|s| self.last_loss_ns.get_mut(usize::from(s))) {
            *last = Some(now_ns);
        }
        out.push(Output::Loss(Loss {
            sensor,
            count: 1,
            reason: LossReason::Malformed,
            from_ns: now_ns,
            to_ns: now_ns,
        }));
    }

    /// The latest reading.
    pub fn latest(&self) -> Option<&CounterReading> {
        self.last.as_ref()
    }

    /// Whether the sensor lost something lately.
    pub fn is_lossy(&self, sensor: u16, now_ns: u64) -> bool {
        self.last_loss_ns[usize::from(sensor)].is_some_and(|at| now_ns.saturating_sub(at) < LOSSY_NS)
    }
}
