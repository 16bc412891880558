//! A recording in memory as a source. In: a recording file. Out: the same inputs in the same order, without a disk
//! behind them, as often as wanted.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use faultline::{
    model::input::Fact,
    source::{
        EventSource, Taken,
        recorder::Tee,
        recording::{End, RecordKind, RecordingReader},
    },
};

/// One input.
enum Step {
    Frame { start: usize, len: usize },
    // In a box: facts are large and rare, and the array of steps must not be what is measured.
    Fact(Box<Fact>),
}

/// All inputs of a recording.
pub struct Inputs {
    steps: Vec<Step>,
    bytes: Vec<u8>,
    /// The recording's field tables.
    pub tables: Vec<faultline::source::recording::SensorTable>,
}

impl Inputs {
    /// Reads a recording to its end.
    ///
    /// # Errors
    /// It is not a whole one.
    pub fn read(path: &Path) -> Result<Self> {
        let mut reader = RecordingReader::open(path)?;
        let tables = reader.header().sensors.clone();
        let (mut steps, mut bytes) = (Vec::new(), Vec::new());
        while let Some(record) = reader.next()? {
            match record.kind {
                RecordKind::Frame => {
                    steps.push(Step::Frame { start: bytes.len(), len: record.body.len() });
                    bytes.extend_from_slice(record.body);
                }
                RecordKind::Input => {
                    let fact = postcard::from_bytes(record.body).context("a fact")?;
                    steps.push(Step::Fact(Box::new(fact)));
                }
                _ => {}
            }
        }
        ensure!(reader.end() == End::Clean, "the recording is torn: {}", reader.end());
        Ok(Self { steps, bytes, tables })
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// From the first input on; `tee` copies each, as `Live` does.
    pub fn source<'a>(&'a self, tee: Option<&'a mut Tee>) -> Memory<'a> {
        Memory { inputs: self, at: 0, tee }
    }
}

/// The source.
pub struct Memory<'a> {
    inputs: &'a Inputs,
    at: usize,
    tee: Option<&'a mut Tee>,
}

impl EventSource for Memory<'_> {
    fn next(&mut self) -> Taken<'_> {
        let Some(step) = self.inputs.steps.get(self.at) else { return Taken::End };
        self.at += 1;
        let seq = self.at as u64;
        match step {
            Step::Frame { start, len } => {
                let frame = &self.inputs.bytes[*start..start + len];
                if let Some(tee) = &mut self.tee {
                    tee.frame(seq, seq, frame);
                }
                Taken::Frame(frame)
            }
            Step::Fact(fact) => {
                if let Some(tee) = &mut self.tee {
                    tee.fact(seq, seq, fact);
                }
                Taken::Fact(fact.as_ref().clone())
            }
        }
    }

    fn decided(&mut self) -> Option<u64> {
        if let Some(tee) = &mut self.tee {
            tee.decided(self.at as u64, self.at as u64);
        }
        Some(self.at as u64)
    }
}
