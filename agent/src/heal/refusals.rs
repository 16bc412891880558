//! Refusals for which somebody has to be PID 1, the agent itself, or a pid's next owner: each real, with the harm that is
//! done when the brake is taken out. In: a pid namespace of one's own, throw-away cgroups. Out: nothing is left.
//!
//! Who plays such a part is this test program started again with [`ROLE`] set; without it [`helper`] is an empty test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup::{Prepared, Target, prepare};
use super::fixture::{Sandbox, deadline, within_ms};
use super::pidfd::PidFd;
use super::process::{Identity, ProcessHandle};
use super::{HandError, Protection};
use crate::kernel::{CgroupLayout, Root};
use crate::model::action::{Limit, Reason, Verb};
use crate::model::entity::Tree;

const ROLE: &str = "FAULTLINE_TEST_PART";
const CGROUP: &str = "FAULTLINE_TEST_CGROUP";
const ID: &str = "FAULTLINE_TEST_CGROUP_ID";

/// What the started-again program is.
#[test]
fn helper() {
    match std::env::var(ROLE).as_deref() {
        Ok("beside PID 1") => freeze_pid_1(),
        Ok("recycler") => recycle(),
        Ok("suicide") => kill_own_cgroup(Protection::of([1])),
        Ok("guarded suicide") => kill_own_cgroup(Protection::of_agent(None)),
        _ => {}
    }
}

/// The arguments and the role that make this program a helper.
fn again<'c>(command: &'c mut Command, role: &str, sandbox: Option<&Sandbox>) -> &'c mut Command {
    command.args(["--exact", "heal::refusals::helper", "--nocapture"]).env(ROLE, role).stdin(Stdio::null());
    if let Some(sandbox) = sandbox {
        command.env(CGROUP, &sandbox.path).env(ID, sandbox.id("unified").to_string());
    }
    command
}

/// A pid namespace whose PID 1 echoes lines; it ends, and with it all inside, when this is dropped.
struct World {
    unshare: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl World {
    /// `None`, with the reason printed, where this machine or user cannot.
    fn new() -> Option<Self> {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount-proc", "--fork", "--kill-child", "cat"]);
        let made = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut unshare = made.inspect_err(|error| eprintln!("skipped: no unshare(1): {error}")).ok()?;
        let (to, from) = (unshare.stdin.take().expect("piped"), unshare.stdout.take().expect("piped"));
        let mut world = Self { unshare, to, from: BufReader::new(from) };
        if world.ask().is_none() {
            eprintln!("skipped: no pid namespace can be made here");
            return None;
        }
        Some(world)
    }

    /// What PID 1 answers; blocks until it does.
    fn ask(&mut self) -> Option<String> {
        let mut line = String::new();
        self.to.write_all(b"well?\n").ok()?;
        self.from.read_line(&mut line).ok().filter(|bytes| *bytes > 0).map(|_| line)
    }

    /// PID 1 by its number out here.
    fn pid_1(&self) -> u32 {
        let id = self.unshare.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("its child");
        children.trim().parse().expect("one child")
    }

    fn run(&self, role: &str, sandbox: Option<&Sandbox>) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid_1().to_string(), "--pid", "--mount", "--"]);
        command.arg(std::env::current_exe().expect("this program"));
        again(&mut command, role, sandbox).output().expect("nsenter")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

fn assert_passed(output: &Output) {
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
}

fn prepared(protection: &Protection, verb: Verb) -> Result<Prepared, HandError> {
    let layout = CgroupLayout::gather(&Root::live()).expect("mounts");
    let var = |name| std::env::var(name).expect("set with the role");
    let target = Target::open(&layout, Tree::Process, &var(CGROUP), var(ID).parse().expect("a number"))?;
    prepare(&layout, protection, verb, Limit::default(), target)
}

#[test]
fn pid_1_is_refused() {
    let Some(sandbox) = Sandbox::new(&["unified"]) else { return };
    let Some(mut world) = World::new() else { return };
    sandbox.write("unified", "cgroup.procs", &world.pid_1().to_string());
    assert_passed(&world.run("beside PID 1", Some(&sandbox)));
    // What was done in there without the brake: PID 1 stands still, and nobody can reap, restart or shut down any more.
    assert!(within_ms(1000, || sandbox.read("unified", "cgroup.events").contains("frozen 1")));
    sandbox.write("unified", "cgroup.freeze", "0");
    assert!(world.ask().is_some(), "thawed, it answers");
    sandbox.write("unified", "cgroup.kill", "1");
    let _ = world.unshare.wait();
}

fn freeze_pid_1() {
    for verb in [Verb::FreezeCgroup, Verb::Kill] {
        let error = prepared(&Protection::of_agent(None), verb).expect_err("a refusal");
        assert!(error.reason() == Reason::Protected && error.to_string().contains("it is PID 1"), "{error}");
    }
    let one = ProcessHandle::open(Identity::of(1).expect("there"), &Protection::of_agent(None));
    assert_eq!(one.expect_err("a refusal").reason(), Reason::Protected);
    prepared(&Protection::of([]), Verb::FreezeCgroup).expect("no brake").apply(deadline()).expect("frozen");
}

#[test]
fn a_pid_that_the_kernel_gave_away_again_is_refused() {
    let Some(world) = World::new() else { return };
    assert_passed(&world.run("recycler", None));
}

fn recycle() {
    let sleep = || Command::new("sleep").arg("300").spawn().expect("sleep");
    let mut first = sleep();
    let meant = Identity::of(first.id()).expect("alive");
    let handle = ProcessHandle::open(meant.clone(), &Protection::of_agent(None)).expect("it is the one");
    first.kill().expect("ours");
    first.wait().expect("reaped: its number is free");
    let mut stranger = None;
    assert!(within_ms(5000, || {
        // In this namespace alone. Start times are counted in ticks of 10 ms: a stranger of the same tick is none yet.
        std::fs::write("/proc/sys/kernel/ns_last_pid", (meant.pid - 1).to_string()).expect("CAP_SYS_ADMIN");
        let mut next = sleep();
        let same = next.id() == meant.pid && Identity::of(next.id()).expect("alive") != meant;
        if !same {
            let _ = next.kill();
            let _ = next.wait();
        }
        stranger = same.then_some(next);
        same
    }));
    let mut stranger = stranger.expect("found");
    let refusal = ProcessHandle::open(meant.clone(), &Protection::of_agent(None)).expect_err("a stranger");
    assert_eq!(refusal.reason(), Reason::PidRecycled);
    assert_eq!(handle.kill().expect_err("prepared for the dead one").reason(), Reason::TargetGone);
    assert!(stranger.try_wait().expect("wait").is_none(), "the stranger lives");
    // By its bare number it dies in place of the one that was meant:
    kill(Pid::from_raw(meant.pid.cast_signed()), Signal::SIGKILL).expect("somebody is there");
    assert_eq!(stranger.wait().expect("wait").signal(), Some(Signal::SIGKILL as i32));
}

#[test]
fn the_agent_never_kills_itself() {
    for (role, death) in [("guarded suicide", None), ("suicide", Some(Signal::SIGKILL as i32))] {
        let Some(sandbox) = Sandbox::new(&["unified"]) else { return };
        let output = again(&mut Command::new("/proc/self/exe"), role, Some(&sandbox)).output().expect("this program");
        assert_eq!(output.status.signal(), death, "{role}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.success(), death.is_none(), "{role}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// In the cgroup that it is told to kill.
fn kill_own_cgroup(protection: Protection) {
    let layout = CgroupLayout::gather(&Root::live()).expect("mounts");
    let path = std::env::var(CGROUP).expect("set with the role");
    let own = layout.v2_tree().expect("mounted").root.join(&path[1..]);
    std::fs::write(own.join("cgroup.procs"), std::process::id().to_string()).expect("moved");
    match prepared(&protection, Verb::Kill) {
        Err(error) => assert_eq!(error.reason(), Reason::Protected),
        Ok(kill) => kill.apply(deadline()).expect("nobody is left to see this"),
    }
}

#[test]
fn a_kernel_thread_is_refused() {
    let is_kthread = |pid: &u32| Protection::of([]).judge(*pid).is_err();
    let Some(thread) = (2..100).find(is_kthread) else {
        eprintln!("skipped: no kernel thread is visible here");
        return;
    };
    let identity = Identity::of(thread).expect("there");
    let refusal = ProcessHandle::open(identity, &Protection::of([])).expect_err("whatever list there is");
    assert!(refusal.to_string().contains("kernel thread"), "{refusal}");
    // Without that question nothing stands between the hands and it:
    assert!(PidFd::open(thread).expect("as of any process").is_there(), "a signal would reach it");
}
