//! What the tests of faultline share: an agent as a child, its lines checked against the contract, faults on
//! demand, and truth to compare with.
//!
//! In: the `faultline` program (built when a test asks for it, or named by `FAULTLINE_BIN`). Out: lines, and
//! errors that say what was expected. The same modules serve the tests on this machine (`tests/*.rs`) and the
//! program `faultline-case` that runs inside a VM, so a fault is made and judged by one piece of code.
//!
//! Faults are made only in what a test made itself: a child, a throw-away cgroup, unnamed network namespaces,
//! a device of a module in a VM.

pub mod agent;
pub mod bench;
pub mod case;
pub mod eval;
pub mod inject;
pub mod lock;
pub mod patient;
pub mod private;
pub mod private_systemd;
pub mod program;
pub mod recordings;
pub mod schema;
pub mod truth;
