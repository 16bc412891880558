//! The generator: real hard events at a rate. In: how many, how fast, which. Out: that many dead children, all counted.
//!
//! A process of its own (`faultline-bench role generate ...`), so that it can sit on its own CPU under its own name. A
//! child shares its memory (clone(2) with CLONE_VM and CLONE_VFORK): the cheapest process there is, so that the rate is
//! that of the kernel and not of page tables. It waits between two children on the clock, awake: a sleeping generator
//! would measure the timer. The pauses vary by half, or they would fall into step with the agent's ticks.
#![expect(unsafe_code, reason = "clone(2) with a stack of our own, and the child's own death")]

use std::{ffi::CString, io::Write};

use anyhow::{Context, Result, bail, ensure};
use faultline::clock::monotonic_ns;
use nix::sys::prctl;

use super::{
    machine::{self, Owned},
    stats::Random,
};

/// How children die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// SIGKILL: a record in the critical ring.
    Killed,
    /// Status 1: a record in the bulk ring.
    Failed,
    /// Each second one this way.
    Mixed,
}

impl Death {
    fn word(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Failed => "failed",
            Self::Mixed => "mixed",
        }
    }

    fn parse(word: &str) -> Result<Self> {
        [Self::Killed, Self::Failed, Self::Mixed]
            .into_iter()
            .find(|death| death.word() == word)
            .with_context(|| format!("no death `{word}`"))
    }
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// Children.
    pub count: u64,
    /// Children per second; 0 is as fast as it goes.
    pub rate: u64,
    /// How they die.
    pub death: Death,
}

/// What was made.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// Children that died, each once.
    pub count: u64,
    /// How long it took, ns.
    pub took_ns: u64,
}

impl Made {
    /// Children per second.
    pub fn rate(&self) -> f64 {
        self.count as f64 * 1e9 / self.took_ns.max(1) as f64
    }
}

/// Starts a generator on a CPU; its children carry `name`.
///
/// # Errors
/// It cannot be started.
pub fn start(order: Order, name: &str, cpu: usize) -> Result<Running> {
    let mut command = machine::own_program();
    let (count, rate) = (order.count.to_string(), order.rate.to_string());
    command.args(["role", "generate", &count, &rate, order.death.word(), name]);
    Ok(Running(Owned::start(command, Some(cpu))?))
}

/// A generator at work.
#[derive(Debug)]
pub struct Running(Owned);

impl Running {
    /// Waits until all is made.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> Result<Made> {
        let line = self.0.line()?;
        let (count, took) = line.split_once(' ').context("the generator says two numbers")?;
        let made = Made { count: count.parse()?, took_ns: took.parse()? };
        self.0.wait()?;
        Ok(made)
    }
}

/// The role itself.
///
/// # Errors
/// Wrong arguments, or no more processes.
pub fn main(args: &[String]) -> Result<()> {
    let [count, rate, death, name] = args else { bail!("role generate COUNT RATE DEATH NAME") };
    let order = Order { count: count.parse()?, rate: rate.parse()?, death: Death::parse(death)? };
    prctl::set_name(&CString::new(name.as_str())?).context("prctl(PR_SET_NAME)")?;
    let made = generate(order)?;
    writeln!(std::io::stdout(), "{} {}", made.count, made.took_ns)?;
    Ok(())
}

fn generate(order: Order) -> Result<Made> {
    // Ignored, so that the kernel reaps them.
    // SAFETY: sets a disposition of this single-threaded process.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let mut stack = vec![0u128; 4096];
    let mut random = Random::new(7);
    let pause_ns = 1_000_000_000u64.checked_div(order.rate).unwrap_or(0);
    let begin = monotonic_ns();
    let mut due = begin;
    for nth in 0..order.count {
        if pause_ns > 0 {
            due += pause_ns / 2 + random.below(pause_ns.max(1));
            while monotonic_ns() < due {
                std::hint::spin_loop();
            }
        }
        one(&mut stack, order.death == Death::Killed || (order.death == Death::Mixed && nth % 2 == 0))?;
    }
    Ok(Made { count: order.count, took_ns: monotonic_ns() - begin })
}

/// One child, dead when this returns.
fn one(stack: &mut [u128], killed: bool) -> Result<()> {
    extern "C" fn fail(_: *mut libc::c_void) -> libc::c_int {
        1
    }
    extern "C" fn be_killed(_: *mut libc::c_void) -> libc::c_int {
        // SAFETY: system calls of the child on itself. By number: the library's own would trust what it remembers of its
        // parent, whose memory this is.
        unsafe { libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGKILL) };
        1
    }
    let child = if killed { be_killed } else { fail };
    let top = stack.as_mut_ptr_range().end.cast::<libc::c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child runs on its own stack and ends at once; CLONE_VFORK holds us until it is gone.
    let pid = unsafe { libc::clone(child, top, flags, std::ptr::null_mut()) };
    ensure!(pid > 0, "clone: {}", std::io::Error::last_os_error());
    Ok(())
}
