//! What the host asks of the guest's init. In on the host: a request. Out in the guest: the same value, read from [`PATH`].
//!
//! Both sides include this file, so they cannot disagree.

use serde::{Deserialize, Serialize};

/// Where the plan lies in the guest.
pub const PATH: &str = "/faultline-vm.json";

/// Port of QEMU's `isa-debug-exit`: writing `n` ends the machine with status `2 n + 1`.
pub const EXIT_PORT: u16 = 0xf4;

/// The largest status that a command can hand through (7 bits, less the two below); larger ones, and death by signal, become this.
pub const LARGEST: u8 = 123;

/// Status of a command that outlived its time.
pub const TIMED_OUT: u8 = 124;

/// Status of an init that could not do its work: no verdict on the command.
pub const INIT_FAILED: u8 = 125;

/// What init does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Added to the environment.
    pub environment: Vec<(String, String)>,
    /// Loaded before the command runs.
    pub modules: Vec<String>,
    /// The command is ended after this many seconds.
    pub timeout_s: u64,
    /// Pack `/out` onto the disk with the serial `out` at the end.
    pub out: bool,
}
