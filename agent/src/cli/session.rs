//! One live session, from load to stop. The order below is the order of start-up.
//!
//! Threads: this one runs tokio (signals, the clock of `--for`, the sampler); the reactor has its own; the
//! resolver, the line writer and the recorder are blocking tasks behind bounded queues.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{
    CliError, print,
    running::{Deadline, Opened, Recording, Running},
};
use crate::{
    attribution::resolver::{self, Resolver},
    clock,
    config::{Config, Mode},
    decode,
    export::{Exporter, Format, HealthLine},
    kernel::{KernelFacts, Root, tracefs},
    privilege,
    sensor::{
        SENSORS,
        loader::{self, Loaded},
        logs::LogBridge,
    },
    source::{
        kmsg::{self, Kmsg},
        recording::{ClockAnchor, FORMAT, FieldSpec, Header, SensorTable},
    },
};

/// What to run.
pub struct Plan {
    pub config: Config,
    /// The text it came from, for the recording.
    pub config_toml: String,
    pub options: loader::Options,
    pub duration: Option<Duration>,
    pub record: Option<PathBuf>,
    pub format: Format,
}

/// Runs a session to its end.
pub fn run(plan: Plan) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::System { what: "tokio runtime", source })?;
    let done = runtime.block_on(session(plan));
    // A writer stuck on a pipe that nobody reads must not keep the agent alive.
    runtime.shutdown_background();
    done
}

async fn session(plan: Plan) -> Result<ExitCode, CliError> {
    // Signals first: from here on a stop always drains and prints the summary.
    let stop = StopSignals::new()?;
    let _lock = match plan.config.mode {
        Mode::Act => Some(privilege::lock_node(privilege::LOCK.as_ref())?),
        Mode::Observe => None,
    };
    tell([privilege::raise_memlock(), privilege::protect_from_oom()]);
    let facts = gather();
    let anchor = clock::anchor();
    // Before the first program is attached: who dies a moment later may take its cgroup along.
    let resolver = Resolver::new(resolver::trees(&facts.cgroups));
    let mut loaded = loader::load(&facts, &plan.config, &plan.options)?;
    // What loading used goes back first: locked memory cannot be given back from the middle of the heap.
    privilege::trim_heap();
    privilege::prefault_code();
    tell([privilege::lock_memory()]);
    report(&loaded);
    let header = header(&facts, anchor, &plan, &loaded);
    let recording = match &plan.record {
        Some(path) => Some(Recording::start(path, &header)?),
        None => None,
    };
    let exporter = || Exporter::new(anchor, plan.format, plan.config.events);
    let kernel_log = kernel_log(&plan.config, &loaded);
    print_health(&exporter(), &loaded, &kernel_log)?;
    let opened = Opened { resolver, recording, kernel_log: kernel_log.ok() };
    let running = Running::start(&plan, &facts, opened, &mut loaded, exporter(), header)?;
    let logs = if plan.options.debug { LogBridge::start(loaded.ebpf_mut()) } else { None };
    let stop_wanted = running.stop_wanted.clone();
    tokio::select! {
        () = stop.wait() => {}
        () = for_duration(plan.duration) => {}
        () = stop_wanted.notified() => {}
    }
    let deadline = Deadline::start();
    loaded.detach();
    privilege::wait_for_programs();
    drop(logs);
    running.finish(deadline, exporter()).await
}

fn tell(grants: impl IntoIterator<Item = privilege::Grant>) {
    for grant in grants {
        if let Some(refused) = grant.refused {
            tracing::info!(what = grant.what, "{refused}");
        }
    }
}

/// Facts of this kernel, with tracefs mounted where it was missing.
fn gather() -> KernelFacts {
    let root = Root::live();
    if let Err(error) = tracefs::mount_if_missing(&root) {
        tracing::info!(%error, "no tracefs");
    }
    let facts = KernelFacts::gather(&root);
    for unknown in &facts.unknown {
        tracing::debug!(fact = unknown.fact, error = %unknown.error, "unknown");
    }
    facts
}

fn report(loaded: &Loaded) {
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    let map_bytes: u64 = loaded.map_bytes.iter().map(|(_, bytes)| bytes).sum();
    tracing::info!(map_bytes, "kernel memory of all maps");
}

/// The kernel's log, or why it is not read. What an attached sensor feels is left to it.
fn kernel_log(config: &Config, loaded: &Loaded) -> Result<Kmsg, String> {
    if !config.kernel_log {
        return Err("switched off: sensors.kernel_log = false".into());
    }
    let attached = |sensor: u16| loaded.health[usize::from(sensor)].is_attached();
    Kmsg::open(kmsg::felt_elsewhere(attached)).map_err(|error| error.to_string())
}

fn print_health(exporter: &Exporter, loaded: &Loaded, log: &Result<Kmsg, String>) -> Result<(), CliError> {
    let mut text = String::new();
    for (number, health) in loaded.health.iter().enumerate() {
        exporter.health(&HealthLine::of(number, health), exporter.anchor.monotonic_ns, &mut text);
    }
    exporter.health(&HealthLine::kernel_log(log.as_ref().err().cloned()), exporter.anchor.monotonic_ns, &mut text);
    print(&text)
}

async fn for_duration(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> Result<Self, CliError> {
        let take = |kind| signal(kind).map_err(|source| CliError::System { what: "signal handler", source });
        Ok(Self { interrupt: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())? })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn header(facts: &KernelFacts, anchor: ClockAnchor, plan: &Plan, loaded: &Loaded) -> Header {
    let sensor = |number: usize| {
        let (fields, size) = decode::layout(number as u16).unwrap_or((&[], 0));
        let health = &loaded.health[number];
        SensorTable {
            name: SENSORS[number].name.into(),
            id: number as u16,
            size: size as u32,
            hook: health.hook().map(str::to_owned),
            health: health.state().into(),
            missing: health.missing().iter().map(|m| (*m).to_owned()).collect(),
            fields: fields.iter().map(|f| FieldSpec { name: f.name.into(), offset: f.offset, size: f.size }).collect(),
        }
    };
    Header {
        format: FORMAT,
        faultline_version: env!("CARGO_PKG_VERSION").into(),
        kernel_release: facts.release.clone(),
        boot_id: facts.boot_id.clone(),
        possible_cpus: facts.possible_cpus,
        page_size: facts.page_size,
        anchor,
        mode: plan.config.mode.name().into(),
        config_toml: plan.config_toml.clone(),
        sensors: (0..SENSORS.len()).map(sensor).collect(),
        // A recording starts with the agent, so the engine is fresh and its snapshot empty.
        snapshot: Vec::new(),
    }
}
