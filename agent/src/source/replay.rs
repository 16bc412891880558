//! Replay: a recording in, the same inputs in the same order out. Reads no clock and touches no kernel.

use std::{fs::File, path::Path};

use bytes::BytesMut;
use thiserror::Error;

use super::{
    EventSource, Taken,
    recording::{End, Gap, Header, RecordKind, RecordingError, RecordingReader},
};
use crate::model::{
    input::Fact,
    output::{Loss, LossReason, Output},
};

/// Why a recording cannot be replayed further.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The file is not a recording, or of a future version.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// An input of this number is not known to this build.
    #[error(
        "{path}: input {seq} is not known to faultline {version}; the recording is of a newer version or damaged; replay it with the version that made it"
    )]
    Input {
        /// The file.
        path: String,
        /// Sequence number.
        seq: u64,
        /// This build.
        version: &'static str,
    },
}

/// A recording as a source.
pub struct Replay {
    reader: RecordingReader<File>,
    /// The record that was read ahead to look for an annotation.
    ahead: Option<Owned>,
    current: Owned,
    /// The buffer of the record before, for the next one.
    spare: BytesMut,
    error: Option<ReplayError>,
    ended: bool,
    last_ns: u64,
    another_policy: bool,
}

/// A record copied out of the reader; the buffers are reused.
#[derive(Debug)]
struct Owned {
    kind: RecordKind,
    seq: u64,
    body: BytesMut,
}

impl Replay {
    /// Opens a recording and reads its header.
    ///
    /// # Errors
    /// [`RecordingError`] when it is not one, or its header is damaged.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let reader = RecordingReader::open(path)?;
        let current = Owned { kind: RecordKind::Unknown(0), seq: 0, body: BytesMut::new() };
        Ok(Self {
            reader,
            ahead: None,
            current,
            spare: BytesMut::new(),
            error: None,
            ended: false,
            last_ns: 0,
            another_policy: false,
        })
    }

    /// The recording's header.
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// For another policy than the recorded one: leaves out what the hands answered, since it did not ask them, and tells it
    /// the names from before the recording, which the engine's snapshot holds for the recorded policy only.
    pub fn for_another_policy(&mut self) {
        self.another_policy = true;
    }

    /// What stopped the replay before the end of the file, if anything did.
    pub fn error(self) -> Option<ReplayError> {
        self.error
    }

    fn read(&mut self) -> Option<Owned> {
        if let Some(ahead) = self.ahead.take() {
            return Some(ahead);
        }
        match self.reader.next() {
            Ok(Some(record)) => {
                let mut body = std::mem::take(&mut self.spare);
                body.clear();
                body.extend_from_slice(record.body);
                Some(Owned { kind: record.kind, seq: record.seq, body })
            }
            Ok(None) => None,
            Err(error) => {
                self.error = Some(error.into());
                None
            }
        }
    }

    /// Whether the file breaks off right behind the current record. Then the moment of its decision may be what is
    /// missing, so it counts as missing, too: what is printed stays a prefix of what the live run printed.
    fn breaks_off(&mut self) -> bool {
        if self.ahead.is_none() {
            self.ahead = self.read();
        }
        self.ahead.is_none() && self.reader.end() != End::Clean
    }

    /// The end of the file: clean, or the loss of whatever stood behind a damaged block.
    fn end(&mut self) -> Taken<'static> {
        if self.ended {
            return Taken::End;
        }
        self.ended = true;
        match self.reader.end() {
            End::Torn { .. } | End::Damaged { .. } => {
                missing(LossReason::RecordingDamaged, Gap { count: 0, from_ns: self.last_ns, to_ns: self.last_ns })
            }
            _ => Taken::End,
        }
    }

    fn fact(&mut self) -> Taken<'static> {
        match postcard::from_bytes::<Fact>(&self.current.body) {
            Ok(fact) => {
                if let Fact::Tick { now_ns } = fact {
                    self.last_ns = now_ns;
                }
                Taken::Fact(fact)
            }
            Err(_) => {
                let path = self.reader.path().display().to_string();
                let version = env!("CARGO_PKG_VERSION");
                self.error = Some(ReplayError::Input { path, seq: self.current.seq, version });
                self.ended = true;
                Taken::End
            }
        }
    }
}

fn missing(reason: LossReason, gap: Gap) -> Taken<'static> {
    let Gap { count, from_ns, to_ns } = gap;
    Taken::Aside(Output::Loss(Loss { sensor: None, count, reason, from_ns, to_ns }))
}

fn names(body: &[u8]) -> Option<Output> {
    match postcard::from_bytes(body) {
        Ok(Fact::Cgroups(names)) => Some(Output::Cgroups(names)),
        Ok(Fact::Devices(names)) => Some(Output::Devices(names)),
        Ok(Fact::DropReasons(names)) => Some(Output::DropReasons(names)),
        _ => None,
    }
}

impl EventSource for Replay {
    fn next(&mut self) -> Taken<'_> {
        loop {
            if self.ended {
                return Taken::End;
            }
            let Some(record) = self.read() else { return self.end() };
            self.spare = std::mem::replace(&mut self.current, record).body;
            let kind = self.current.kind;
            if kind == RecordKind::Frame && self.breaks_off() {
                return self.end();
            }
            match kind {
                RecordKind::Frame => return Taken::Frame(&self.current.body),
                RecordKind::Input => match self.fact() {
                    Taken::Fact(Fact::Done(_) | Fact::Verified(_)) if self.another_policy => {}
                    taken => return taken,
                },
                RecordKind::Gap => {
                    if let Some(gap) = Gap::decode(&self.current.body) {
                        return missing(LossReason::RecorderGap, gap);
                    }
                }
                RecordKind::Names if self.another_policy => return self.fact(),
                RecordKind::Names => {
                    if let Some(names) = names(&self.current.body) {
                        return Taken::Aside(names);
                    }
                }
                // An annotation nobody asked for, a snapshot to go on from, or a kind of a later version.
                RecordKind::Annotation | RecordKind::Snapshot | RecordKind::Unknown(_) => {}
            }
        }
    }

    fn decided(&mut self) -> Option<u64> {
        let record = self.read()?;
        if record.kind == RecordKind::Annotation && record.seq == self.current.seq {
            return record.body.as_ref().try_into().ok().map(u64::from_le_bytes);
        }
        self.ahead = Some(record);
        None
    }
}
