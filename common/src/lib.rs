//! The contract between faultline's kernel side and its user side.
//!
//! In: nothing. Out: the byte layouts of ring records, counters, tunables and offsets, and the small pure
//! functions that both sides must agree on (exit codes, histogram buckets, rate windows). `no_std`, no
//! allocation, no I/O: the same code runs inside a BPF program and under plain `cargo test`.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod counter;
pub mod event;
pub mod exit;
pub mod hist;
pub mod limit;
pub mod offsets;
pub mod sensor;
pub mod tunable;
#[cfg(feature = "user")]
mod user;
