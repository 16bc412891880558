//! The steps of `cargo xtask test`, in order. In: nothing. Out: one list; adding a check is adding a line.

use std::process::Command;

use crate::cargo;

/// One check.
pub struct Step {
    /// What `--only` takes and the log is called.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Later steps mean nothing when this one fails.
    pub essential: bool,
    /// Longer than this is a hang.
    pub limit_s: u32,
    run: Run,
}

/// What a step runs.
enum Run {
    /// Cargo with these arguments.
    Cargo(&'static [&'static str]),
    /// This program with these arguments.
    Xtask(&'static [&'static str]),
}

/// Everything, in order; cheap and telling first.
pub const STEPS: &[Step] = &[
    Step::xtask("setup", "find or make the BPF toolchain", &["setup"]).essential(),
    Step::xtask("build-ebpf", "build the eBPF object", &["build-ebpf"]).essential(),
    Step::cargo("fmt", "formatting", &["fmt", "--all", "--check"]),
    Step::cargo(
        "clippy",
        "lints",
        &["clippy", "--workspace", "--exclude", "faultline-ebpf", "--all-targets", "--", "-D", "warnings"],
    ),
    Step::cargo("unit", "unit and property tests", &["test"]),
    Step::cargo(
        "release",
        "the agent and the test programs, optimised",
        &["build", "--release", "--package", "faultline", "--package", "faultline-tests"],
    )
    .essential(),
    Step::cargo("host", "tests on this machine", &["test", "--release", "--package", "faultline-tests"]),
    Step::cargo(
        "storm",
        "an OOM kill in the middle of storms that overflow the rings",
        &["run", "--release", "--package", "faultline-tests", "--bin", "faultline-storm"],
    ),
    // In a VM, because there nothing else is born or dies; `faultline-loss` on a quiet machine does the same.
    Step::vm(
        "loss",
        "every one of some hundred thousand events is in the books",
        &["vm", "--kernel", "6.12", "--timeout", "600", "--", "faultline-loss", "150000"],
    ),
    Step::vm(
        "flood",
        "a million requests while the consumer is stopped, each in the books",
        &["vm", "--kernel", "6.12", "--timeout", "600", "--", "faultline-case", "flood"],
    ),
    Step::vm(
        "vm-5.10.218",
        "all faults observed on 5.10.218",
        &["vm", "--kernel", "5.10.218", "--mem", "256", "--timeout", "300", "--", "faultline-case", "observe"],
    ),
    Step::vm(
        "vm-5.10.262",
        "all faults observed on 5.10.262",
        &["vm", "--kernel", "5.10.262", "--timeout", "300", "--", "faultline-case", "observe"],
    ),
    Step::vm(
        "vm-6.1",
        "all faults observed on 6.1",
        &["vm", "--kernel", "6.1", "--mem", "256", "--timeout", "300", "--", "faultline-case", "observe"],
    ),
    Step::vm(
        "vm-6.12",
        "all faults observed on 6.12",
        &["vm", "--kernel", "6.12", "--timeout", "300", "--", "faultline-case", "observe"],
    ),
    Step::vm(
        "vm-6.18",
        "all faults observed on 6.18",
        &["vm", "--kernel", "6.18", "--timeout", "300", "--", "faultline-case", "observe"],
    ),
    Step::vm(
        "vm-7.3",
        "all faults observed on 7.3",
        &["vm", "--kernel", "7.3", "--timeout", "300", "--", "faultline-case", "observe"],
    ),
    Step::vm(
        "guardian-6.12",
        "agents killed in the middle of a freeze or a limit",
        &["vm", "--kernel", "6.12", "--timeout", "600", "--", "faultline-case", "guardian", "12"],
    ),
    Step::vm(
        "systemd-6.12",
        "the hands on units, against a real service manager on 6.12",
        &["vm", "--kernel", "6.12", "--mem", "512", "--timeout", "300", "--systemd", "--", "faultline-case", "systemd"],
    ),
    Step::vm(
        "heal-6.1",
        "real faults healed by a real policy on 6.1",
        &["vm", "--kernel", "6.1", "--mem", "512", "--timeout", "300", "--systemd", "--", "faultline-case", "heal"],
    ),
    Step::vm(
        "heal-6.12",
        "real faults healed by a real policy on 6.12",
        &["vm", "--kernel", "6.12", "--mem", "512", "--timeout", "300", "--systemd", "--", "faultline-case", "heal"],
    ),
];

/// Steps that only `cargo xtask ci` adds.
pub const CI_ONLY: &[Step] =
    &[Step::xtask("reproducible", "the eBPF object builds to the same bytes anywhere", &["build-ebpf", "--check"])];

/// The step called `name`.
///
/// # Errors
/// There is none; the message lists those that are.
pub fn find(name: &str) -> Result<&'static Step, String> {
    let mut all = STEPS.iter().chain(CI_ONLY);
    let names = || STEPS.iter().chain(CI_ONLY).map(|step| step.name).collect::<Vec<_>>().join(", ");
    all.find(|step| step.name == name).ok_or_else(|| format!("no step `{name}`: choose one of {}", names()))
}

impl Step {
    const fn new(name: &'static str, about: &'static str, run: Run) -> Self {
        Self { name, about, essential: false, limit_s: 900, run }
    }

    const fn cargo(name: &'static str, about: &'static str, arguments: &'static [&'static str]) -> Self {
        Self::new(name, about, Run::Cargo(arguments))
    }

    const fn xtask(name: &'static str, about: &'static str, arguments: &'static [&'static str]) -> Self {
        Self::new(name, about, Run::Xtask(arguments))
    }

    /// A step in a VM: fetching a kernel and building come on top of the guest's own limit.
    const fn vm(name: &'static str, about: &'static str, arguments: &'static [&'static str]) -> Self {
        Self::xtask(name, about, arguments)
    }

    const fn essential(mut self) -> Self {
        self.essential = true;
        self
    }

    /// The command, ready to run.
    pub fn command(&self) -> Command {
        match self.run {
            Run::Cargo(arguments) => {
                let mut command = cargo::command();
                command.args(arguments);
                command
            }
            Run::Xtask(arguments) => {
                // Not the path of the file: an edit and a build during a long run replace that.
                let mut command = Command::new(format!("/proc/{}/exe", std::process::id()));
                command.args(arguments);
                command
            }
        }
    }

    /// What to type to run this step alone.
    pub fn line(&self) -> String {
        let (program, arguments) = match self.run {
            Run::Cargo(arguments) => ("cargo", arguments),
            Run::Xtask(arguments) => ("cargo xtask", arguments),
        };
        format!("{program} {}", arguments.join(" "))
    }
}
