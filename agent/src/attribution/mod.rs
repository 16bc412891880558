//! Attribution: whose event is it. `units` is the pure side that the engine asks; `resolver` is the side that
//! reads the file system, outside the reactor, and whose answers enter the engine as inputs.

pub mod block_stack;
pub mod names;
pub mod resolver;
pub mod units;
pub mod workload;
