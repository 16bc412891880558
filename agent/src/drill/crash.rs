//! The drills `crash` and `crash-loop`. In: nothing; out: own children that die by SIGSEGV once, or by SIGKILL five times.
//!
//! The children take names of their own, so that the fault is about them and not about this binary, and leave no core: the
//! limit stops core files and the dumpable flag stops handlers behind a pipe, which ignore the limit.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use super::helper::{Helper, Word, say, take_name};
use super::stage::Stage;
use super::verdict::Expected;
use super::{DrillError, Performance};
use crate::clock::monotonic_ns;

/// Helper that crashes.
pub const ROLE: &str = "crash";
/// Helper that kills itself.
pub const LOOP_ROLE: &str = "crash-loop";

const NAME: &str = "fl-drill-crash";
const LOOP_NAME: &str = "fl-drill-loop";

/// How often the looping child dies: the default threshold of the crash-loop detector.
const ROUNDS: usize = 5;

/// The drill `crash`.
pub fn perform(stage: &mut Stage) -> Result<Performance, DrillError> {
    let injected_ns = die_once(stage, ROLE)?;
    finish(stage, "process_crash", NAME, injected_ns)
}

/// The drill `crash-loop`.
pub fn perform_loop(stage: &mut Stage) -> Result<Performance, DrillError> {
    let injected_ns = die_once(stage, LOOP_ROLE)?;
    for _ in 1..ROUNDS {
        die_once(stage, LOOP_ROLE)?;
    }
    finish(stage, "crash_loop", LOOP_NAME, injected_ns)
}

/// Starts a child and waits for its death; returns when it set out to die.
fn die_once(stage: &mut Stage, role: &'static str) -> Result<u64, DrillError> {
    let mut helper = Helper::start(role, &[])?;
    let injected_ns = stage.injected(&mut helper)?;
    stage.ended(&mut helper)?;
    Ok(injected_ns)
}

fn finish(stage: &mut Stage, kind: &'static str, name: &str, injected_ns: u64) -> Result<Performance, DrillError> {
    let expected = Expected { kind, entity_kind: "executable", entity_name: name.to_owned(), victim_pid: None };
    stage.wait_for_fault(&expected)?;
    Ok(Performance { expected, injected_ns, healing: None })
}

/// Child side of `crash`: dies by SIGSEGV.
pub fn help() -> Result<(), DrillError> {
    take_name(NAME)?;
    leave_no_core()?;
    // std catches SIGSEGV to tell a stack overflow; its handler would swallow a signal that no instruction caused.
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "setting a signal's disposition is unsafe in nix")]
    // SAFETY: the default action installs no handler function.
    unsafe { sigaction(Signal::SIGSEGV, &default) }.map_err(DrillError::system("reset", "SIGSEGV"))?;
    die(Signal::SIGSEGV)
}

/// Child side of `crash-loop`: dies by SIGKILL.
pub fn help_loop() -> Result<(), DrillError> {
    take_name(LOOP_NAME)?;
    leave_no_core()?;
    die(Signal::SIGKILL)
}

fn die(signal: Signal) -> Result<(), DrillError> {
    say(&Word::Injected(monotonic_ns()))?;
    raise(signal).map_err(DrillError::system("raise", signal.as_str()))
}

fn leave_no_core() -> Result<(), DrillError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(DrillError::system("set", "the core limit to 0"))?;
    prctl::set_dumpable(false).map_err(DrillError::system("clear", "the dumpable flag"))
}
