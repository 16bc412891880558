//! The vocabulary: one noun per file. Types only, no behaviour beyond what keeps them valid; every other
//! room of the agent speaks through these.

pub mod action;
pub mod bounded;
pub mod counters;
pub mod entity;
pub mod event;
pub mod evidence;
pub mod fault;
pub mod input;
pub mod output;
pub mod snapshot;
