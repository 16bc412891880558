//! The reactor: one loop from input to decision, the same for live and replay.
//!
//! In: a source. Out: what the engine said, with the moment of each decision, handed to a sink that must not
//! block, and what it asked for, handed to the hands. In the steady state it neither allocates nor locks.

use faultline_common::sensor::SENSORS;

use crate::{
    decode::Decoder,
    engine::{Engine, OUTPUTS},
    model::{
        action::{Done, Request},
        input::{Fact, Input},
        output::Output,
    },
    source::{EventSource, Taken},
};

/// Frames by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Decoded, by sensor.
    pub decoded: [u64; SENSORS],
    /// Malformed, by the sensor they claim.
    pub malformed: [u64; SENSORS],
    /// Malformed beyond recognition.
    pub unrecognised: u64,
}

/// Who acts, on the reactor's own thread. Must not block.
pub trait Hands {
    /// Does what is asked, or hands it on. An answer, if there is one already, is the source's next input.
    fn act(&mut self, request: &Request) -> Option<Done>;

    /// Hears everything the engine says.
    fn told(&mut self, output: &Output) {
        let _ = output;
    }

    /// There is a moment: between two inputs, some times a second.
    fn tick(&mut self) {}
}

/// No hands: for replays, whose answers are in the recording, and for machines that may not act.
#[derive(Clone, Copy, Debug)]
pub struct NoHands;

impl Hands for NoHands {
    fn act(&mut self, _: &Request) -> Option<Done> {
        None
    }
}

/// Runs until the source ends. `sink` gets each output, and for faults the moment the decision stood.
pub fn run(
    source: &mut impl EventSource,
    decoder: &Decoder,
    engine: &mut Engine,
    hands: &mut impl Hands,
    sink: &mut impl FnMut(&Output, Option<u64>),
) -> Tally {
    let mut tally = Tally::default();
    let mut outputs = Vec::with_capacity(OUTPUTS);
    source.mark(&mut |buffer| engine.save(buffer));
    loop {
        let input = match source.next() {
            Taken::Frame(frame) => tally.decode(decoder, frame),
            Taken::Fact(fact) => Input::Fact(fact),
            Taken::Aside(output) => {
                sink(&output, None);
                continue;
            }
            Taken::End => return tally,
        };
        engine.step(&input, &mut outputs);
        let decided = if outputs.iter().any(is_caused) { source.decided() } else { None };
        // The deed first, then the words about it.
        for output in &outputs {
            if let Output::Act(request) = output
                && let Some(done) = hands.act(request)
            {
                source.answer(Fact::Done(done));
            }
        }
        // By reference: an output is some 400 bytes, which a `drain` would move once more.
        for output in &outputs {
            hands.told(output);
            sink(output, decided);
        }
        outputs.clear();
        if let Input::Fact(Fact::Tick { .. }) = input {
            hands.tick();
            source.mark(&mut |buffer| engine.save(buffer));
        }
    }
}

/// Whether the output is a decision on a kernel event, whose delay is worth knowing.
fn is_caused(output: &Output) -> bool {
    matches!(output, Output::Fault(fault) if fault.cause_ns.is_some())
}

impl Tally {
    fn decode(&mut self, decoder: &Decoder, frame: &[u8]) -> Input {
        match decoder.decode(frame) {
            Ok(event) => {
                self.decoded[usize::from(event.sensor())] += 1;
                Input::Event(event)
            }
            Err(malformed) => {
                match malformed.sensor {
                    Some(sensor) => self.malformed[usize::from(sensor)] += 1,
                    None => self.unrecognised += 1,
                }
                Input::Malformed { sensor: malformed.sensor }
            }
        }
    }
}
