//! Source: where inputs come from. Live and replay are two implementations of one [`EventSource`]; the
//! reactor cannot tell them apart, which is what makes a replay a proof.

pub mod flight;
mod flight_window;
pub mod kmsg;
pub mod live;
pub mod mapped;
pub mod queue;
pub mod recorder;
pub mod recording;
pub mod replay;

use crate::model::{input::Fact, output::Output};

/// What a source hands over next.
#[derive(Debug)]
pub enum Taken<'a> {
    /// A raw frame, as it stood in the ring.
    Frame(&'a [u8]),
    /// Any other input.
    Fact(Fact),
    /// No input, but something to be said here: inputs are missing (identity with the live run ends), or names that
    /// were told before the recording began.
    Aside(Output),
    /// There is nothing more.
    End,
}

/// A numbered stream of inputs.
pub trait EventSource {
    /// The next input; waits for it if it must.
    fn next(&mut self) -> Taken<'_>;

    /// The moment (CLOCK_MONOTONIC ns) at which the decision on the input just taken stood: now when live,
    /// the recorded one in a replay. `None` when it was not recorded. The engine never sees it.
    fn decided(&mut self) -> Option<u64>;

    /// Takes an input that was born on this thread: it comes next, numbered and recorded like any other. A replay has
    /// it in the recording and ignores it.
    fn answer(&mut self, fact: Fact) {
        let _ = fact;
    }

    /// Asked before the first input and after every tick: `save` writes the engine's state into a buffer, if the source has a use for it now.
    fn mark(&mut self, save: &mut dyn FnMut(&mut [u8]) -> Option<usize>) {
        let _ = save;
    }
}
