//! `doctor`: what faultline can feel on this machine. Loads and attaches everything, says how it went, and
//! detaches again. Status 1 when a required sensor is not attached.

use std::process::ExitCode;

use super::{CliError, FINDING, OutputArgs, print};
use crate::{
    attribution::block_stack,
    clock,
    config::Config,
    export::{Exporter, Format, HealthLine},
    kernel::{Btf, KernelFacts, Lockdown, PidNamespace, Root, tracefs},
    privilege,
    sensor::{SENSORS, loader},
    source::kmsg::{self, Kmsg},
};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Use only this rung of a sensor's ladder, such as oom_kill=tracepoint; may be repeated.
    #[arg(long = "hook", value_name = "SENSOR=RUNG")]
    hooks: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// One property of the machine that changes what the agent can do.
struct Finding {
    what: &'static str,
    good: bool,
    missing: Vec<String>,
    text: String,
}

/// Examines this machine.
pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode, CliError> {
    let root = Root::live();
    let mounted = tracefs::mount_if_missing(&root);
    let grants = [privilege::raise_memlock(), privilege::lock_memory(), privilege::protect_from_oom()];
    let facts = KernelFacts::gather(&root);
    let mut findings = vec![kernel(&facts), lockdown(&facts), pid_namespace(&facts), capabilities(&facts), btf(&root)];
    findings.push(match mounted {
        Ok(path) => Finding::good("tracefs", path.display().to_string()),
        Err(error) => Finding::bad("tracefs", format!("{error}: the tracepoint rungs are not available")),
    });
    findings.extend(grants.into_iter().map(|g| match g.refused {
        None => Finding::good(g.what, "granted".into()),
        Some(why) => Finding::bad(g.what, why),
    }));
    let exporter = Exporter::new(clock::anchor(), args.output.format(), true);
    let options = loader::Options { hooks: super::run::hooks(&args.hooks)?, ..loader::Options::default() };
    let loaded = match loader::load(&facts, &Config::default(), &options) {
        Ok(loaded) => loaded,
        Err(error) => {
            print(&render(&exporter, args.output.format(), &findings))?;
            return Err(error.into());
        }
    };
    findings.push(maps(&loaded.map_bytes));
    findings.push(disks(&root));
    findings.extend(loaded.notes.iter().map(|note| Finding::bad("maps", note.clone())));
    let mut text = render(&exporter, args.output.format(), &findings);
    for (number, health) in loaded.health.iter().enumerate() {
        exporter.health(&HealthLine::of(number, health), clock::monotonic_ns(), &mut text);
    }
    let attached = |sensor: u16| loaded.health[usize::from(sensor)].is_attached();
    let log = Kmsg::open(kmsg::felt_elsewhere(attached)).err().map(|error| error.to_string());
    exporter.health(&HealthLine::kernel_log(log), clock::monotonic_ns(), &mut text);
    print(&text)?;
    let ready = SENSORS.iter().zip(&loaded.health).all(|(s, h)| h.is_attached() || !s.required);
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(FINDING) })
}

impl Finding {
    fn good(what: &'static str, text: String) -> Self {
        Self { what, good: true, missing: Vec::new(), text }
    }

    fn bad(what: &'static str, text: String) -> Self {
        Self { what, good: false, missing: Vec::new(), text }
    }
}

fn kernel(facts: &KernelFacts) -> Finding {
    Finding::good("kernel", format!("{}, {} possible CPUs", facts.release, facts.possible_cpus))
}

fn lockdown(facts: &KernelFacts) -> Finding {
    match facts.lockdown {
        Lockdown::None => Finding::good("lockdown", "none".into()),
        Lockdown::Integrity => Finding::good("lockdown", "integrity: the kernel still allows these sensors".into()),
        Lockdown::Confidentiality => Finding::bad(
            "lockdown",
            "confidentiality: the kernel refuses every program that reads its memory, so no sensor runs; boot with lockdown=integrity".into(),
        ),
        Lockdown::Unknown => Finding::good("lockdown", "unknown (securityfs is not mounted)".into()),
    }
}

fn pid_namespace(facts: &KernelFacts) -> Finding {
    match facts.pid_namespace {
        PidNamespace::Host => Finding::good("pid_namespace", "host".into()),
        PidNamespace::Nested => Finding::bad(
            "pid_namespace",
            "nested: pids in events are the host's, not those seen here; run the agent in the host's pid namespace"
                .into(),
        ),
        PidNamespace::Unknown => Finding::bad("pid_namespace", "unknown: mount /proc".into()),
    }
}

fn capabilities(facts: &KernelFacts) -> Finding {
    let missing = facts.capabilities.missing_for_agent();
    if missing.is_empty() {
        return Finding::good("capabilities", "complete".into());
    }
    let text = missing.iter().map(|(name, cost)| format!("{name}: {cost}")).collect::<Vec<_>>().join("; ");
    let missing = missing.iter().map(|m| m.0.to_owned()).collect();
    Finding { what: "capabilities", good: false, missing, text }
}

fn btf(root: &Root) -> Finding {
    match Btf::load(root) {
        Ok(btf) => Finding::good("btf", format!("{} types", btf.type_count())),
        Err(error) => Finding::bad(
            "btf",
            format!("{error}: only the tracepoint rungs are available; use a kernel with CONFIG_DEBUG_INFO_BTF"),
        ),
    }
}

/// Every map has a fixed size; the largest come first.
fn maps(bytes: &[(String, u64)]) -> Finding {
    let mut all: Vec<_> = bytes.iter().filter(|(name, _)| !name.starts_with('.')).collect();
    all.sort_by_key(|(name, bytes)| (std::cmp::Reverse(*bytes), name.clone()));
    let each: Vec<_> = all.iter().map(|(name, bytes)| format!("{name} {}", bytes / 1024)).collect();
    let sum: u64 = bytes.iter().map(|(_, bytes)| bytes).sum();
    Finding::good("maps", format!("{} kB of kernel memory: {}", sum / 1024, each.join(", ")))
}

/// What stands behind the names of disks: mappings, arrays, files, and where they are mounted.
fn disks(root: &Root) -> Finding {
    let all = block_stack::stacks(root);
    let used = all.values().filter(|stack| stack.mount_count > 0 || stack.dm.is_some() || stack.md.is_some());
    let each: Vec<_> = used
        .map(|stack| {
            let mounts: Vec<_> = stack.mounts.iter().map(|mount| mount.point.as_str()).collect();
            format!("{stack} {}", mounts.join(" ")).trim_end().to_owned()
        })
        .collect();
    Finding::good("disks", if each.is_empty() { "none in use".into() } else { each.join(", ") })
}

fn render(exporter: &Exporter, format: Format, findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let state = if finding.good { "ok" } else { "degraded" };
        // In JSON `error` is for what is wrong; what is merely told goes to people only.
        let told = (!finding.good || matches!(format, Format::Text { .. })).then(|| finding.text.clone());
        let missing = finding.missing.iter().map(String::as_str).collect();
        let line = HealthLine { sensor: finding.what, state, hook: None, missing, error: told };
        exporter.health(&line, clock::monotonic_ns(), &mut text);
    }
    text
}
