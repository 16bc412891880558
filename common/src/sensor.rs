//! The sensors by number: the discriminator of every ring record and the row of every counter table.
//!
//! Plain integers instead of an `enum`: a byte pattern from a ring or a damaged recording must never be able
//! to form an invalid value.

/// Sensor number of `tcp_retransmit`.
pub const TCP_RETRANSMIT: u16 = 0;
/// Sensor number of `oom_kill`.
pub const OOM_KILL: u16 = 1;
/// Sensor number of `block_io`.
pub const BLOCK_IO: u16 = 2;
/// Sensor number of `process_exit`.
pub const PROCESS_EXIT: u16 = 3;
/// Sensor number of `task_hang`.
pub const TASK_HANG: u16 = 4;
/// Sensor number of `tcp_connect`.
pub const TCP_CONNECT: u16 = 5;
/// Sensor number of `tcp_reset`.
pub const TCP_RESET: u16 = 6;
/// Sensor number of `packet_drop`.
pub const PACKET_DROP: u16 = 7;
/// How many sensors there are; numbers are `0..SENSORS`.
pub const SENSORS: usize = 8;
