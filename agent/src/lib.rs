//! faultline: feels faults in the kernel, judges them, and says what it saw.
//!
//! Read from top to bottom this is the way of an event. Each module's first line says what goes in and what
//! comes out.

// What flows: the vocabulary.
pub mod model;

// Where it comes from: this kernel, its sensors, the rings, a recording.
pub mod clock;
pub mod config;
pub mod kernel;
pub mod sensor;
pub mod source;

// The way of an event: frame -> event -> entity -> signal -> fault, all of it pure.
pub mod decode;

pub mod attribution;
pub mod detect;
pub mod kernel_log;

pub mod classify;
pub mod correlate;
pub mod decide;
pub mod engine;
pub mod learn;

// What it does about it.
pub mod heal;

// What drives it, and what it says.
pub mod export;
pub mod reactor;
pub mod sampler;

// Around it: the agent's own powers, its fire drill, its command line.
pub mod cli;
pub mod drill;
pub mod privilege;
