//! One live session, from load to summary. The order below is the order of start-up and of the drain.
//!
//! Threads: this one runs tokio (signals, the clock of `--for`, the sampler); the reactor has its own; the
//! resolver, the line writer and the recorder are blocking tasks behind bounded queues.

use std::{
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};

use super::{CliError, print};
use crate::{
    attribution::resolver::{self, Resolver},
    clock,
    config::{Config, Mode},
    decode::{self, Decoder},
    engine::Engine,
    export::{
        Exporter, Format, HealthLine,
        writer::{self, Lines, Sink},
    },
    kernel::{KernelFacts, Root, tracefs},
    model::input::Fact,
    privilege,
    reactor::{self, Tally},
    sampler::{Counters, Disks},
    sensor::{
        SENSORS,
        loader::{self, Loaded},
        logs::LogBridge,
    },
    source::{
        live::{self, Live},
        queue::{Doorbell, FactSender},
        recorder::{self, Tail, Tee},
        recording::{ClockAnchor, FORMAT, FieldSpec, Header, RecordingError, RecordingWriter, SensorTable},
    },
};

/// Longest time that the tail of the lines and of the recording may take after the reactor has ended.
const FINISH: Duration = Duration::from_millis(1500);
/// How often arrays are sampled.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

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
    for grant in [privilege::raise_memlock(), privilege::lock_memory(), privilege::protect_from_oom()] {
        if let Some(refused) = grant.refused {
            tracing::info!(what = grant.what, "{refused}");
        }
    }
    let facts = gather();
    let anchor = clock::anchor();
    let mut loaded = loader::load(&facts, &plan.config, &plan.options)?;
    privilege::trim_heap();
    report(&loaded, plan.config.mode);
    let recording = match &plan.record {
        Some(path) => Some(Recording::start(path, &header(&facts, anchor, &plan, &loaded))?),
        None => None,
    };
    let exporter = Exporter::new(anchor, plan.format, plan.config.events);
    print_health(&exporter, &loaded)?;
    let running = Running::start(&plan, &facts, &mut loaded, exporter, recording)?;
    let logs = if plan.options.debug { LogBridge::start(loaded.ebpf_mut()) } else { None };
    let broken_output = running.stop_wanted.clone();
    tokio::select! {
        () = stop.wait() => {}
        () = for_duration(plan.duration) => {}
        () = broken_output.notified() => {}
    }
    loaded.detach();
    privilege::wait_for_programs();
    drop(logs);
    running.finish().await
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

fn report(loaded: &Loaded, mode: Mode) {
    for note in &loaded.notes {
        tracing::warn!("{note}");
    }
    tracing::info!(map_bytes = loaded.map_bytes, "kernel memory of all maps");
    if mode == Mode::Act {
        tracing::warn!("mode is act, but this version has no verbs: it reports and touches nothing");
    }
}

fn print_health(exporter: &Exporter, loaded: &Loaded) -> Result<(), CliError> {
    let mut text = String::new();
    for (number, health) in loaded.health.iter().enumerate() {
        exporter.health(&HealthLine::of(number, health), exporter.anchor.monotonic_ns, &mut text);
    }
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

/// The recorder, from the open file to its end.
struct Recording {
    tee: Option<Tee>,
    finish: Box<dyn FnOnce() + Send>,
    task: JoinHandle<Result<(), RecordingError>>,
}

impl Recording {
    fn start(path: &std::path::Path, header: &Header) -> Result<Self, CliError> {
        let writer = RecordingWriter::create(path, header)?;
        let (tee, tail) = recorder::pair().map_err(CliError::system("recorder queue"))?;
        let finish = Box::new(tail.finisher());
        let task = tokio::task::spawn_blocking(move || keep(tail, writer));
        Ok(Self { tee: Some(tee), finish, task })
    }

    async fn end(self) {
        (self.finish)();
        if let Err(error) = tokio::time::timeout(FINISH, self.task).await {
            tracing::warn!(%error, "the recording's tail could not be written in time; the file is valid up to its last block");
        }
    }
}

/// Writes the recording; a failure ends it and is said at once, not at the end of the run.
fn keep(tail: Tail, writer: RecordingWriter<std::fs::File>) -> Result<(), RecordingError> {
    let lost = tail.lost.clone();
    let done = recorder::write(tail, writer);
    if let Err(error) = &done {
        tracing::error!(%error, "the recording ends here; the agent goes on without it");
    }
    let lost = lost.load(Ordering::Relaxed);
    if lost > 0 {
        tracing::warn!(lost, "inputs are missing in the recording: replay will show the gap");
    }
    done
}

type LineTask = JoinHandle<(Lines, Exporter, std::io::Result<()>)>;

/// Everything that runs until the stop.
struct Running {
    reactor: std::thread::JoinHandle<(Engine, Tally)>,
    control: Arc<live::Control>,
    bell: Arc<Doorbell>,
    lines: LineTask,
    finish_lines: Box<dyn FnOnce() + Send>,
    recording: Option<Recording>,
    resolver: Arc<resolver::Control>,
    sampler: JoinHandle<()>,
    /// Notified when nobody reads the lines any more.
    stop_wanted: Arc<tokio::sync::Notify>,
}

impl Running {
    fn start(
        plan: &Plan,
        facts: &KernelFacts,
        loaded: &mut Loaded,
        exporter: Exporter,
        mut recording: Option<Recording>,
    ) -> Result<Self, CliError> {
        let (sender, queue, bell) = FactSender::new().map_err(CliError::system("fact queue"))?;
        let counters = Arc::new(Counters::new(loaded.arrays.clone(), std::mem::take(&mut loaded.programs)));
        let disks = Disks::new(loaded.arrays.clone(), plan.config.detect.disk_latency);
        let resolver = start_resolver(facts, &sender)?;
        let sampler = start_sampler(counters.clone(), disks, sender);
        let (sink, lines) = writer::pair().map_err(CliError::system("line queue"))?;
        let finish_lines = Box::new(lines.finisher());
        let stop_wanted = Arc::new(tokio::sync::Notify::new());
        let lines = start_lines(lines, exporter, resolver.clone(), stop_wanted.clone());
        let control = Arc::new(live::Control::default());
        let source = Live::new(live::Parts {
            critical: loaded.critical.take().ok_or(loader::LoadError::Drift { map: "CRITICAL" })?,
            bulk: loaded.bulk.take().ok_or(loader::LoadError::Drift { map: "BULK" })?,
            facts: queue,
            bell: bell.clone(),
            control: control.clone(),
            spin: plan.config.reactor.spin,
            tee: recording.as_mut().and_then(|r| r.tee.take()),
            last_facts: last_facts(counters),
        })
        .map_err(CliError::system("epoll"))?;
        let reactor = start_reactor(plan.config.clone(), source, sink)?;
        Ok(Self { reactor, control, bell, lines, finish_lines, recording, resolver, sampler, stop_wanted })
    }

    /// Drains, ends every task, and prints the summary.
    async fn finish(self) -> Result<ExitCode, CliError> {
        self.sampler.abort();
        self.resolver.stop.store(true, Ordering::Release);
        self.resolver.bell.ring_always();
        self.control.stop.store(true, Ordering::Release);
        self.bell.ring_always();
        let reactor = self.reactor;
        let joined = tokio::task::spawn_blocking(move || reactor.join()).await;
        let Ok(Ok((engine, tally))) = joined else {
            return Err(CliError::Reactor);
        };
        (self.finish_lines)();
        let lines = tokio::time::timeout(FINISH, self.lines).await;
        if let Some(recording) = self.recording {
            recording.end().await;
        }
        let Ok(Ok((lines, exporter, printed))) = lines else {
            let source = std::io::Error::new(std::io::ErrorKind::TimedOut, "nobody reads the lines");
            return Err(CliError::Print(source));
        };
        printed?;
        let summary = exporter.sum_up(&engine, tally, engine.now_ns(), lines.lost());
        let mut text = String::new();
        exporter.summary(&summary, &mut text);
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The counters once more, after the drain.
fn last_facts(counters: Arc<Counters>) -> live::LastFacts {
    let mut left = Some(counters);
    Box::new(move || left.take().map(|counters| Fact::Counters(counters.read())))
}

fn start_resolver(facts: &KernelFacts, sender: &FactSender) -> Result<Arc<resolver::Control>, CliError> {
    let bell = Doorbell::new().map_err(CliError::system("resolver doorbell"))?;
    let control = Arc::new(resolver::Control { stop: AtomicBool::new(false), wanted: AtomicBool::new(false), bell });
    let mut resolver = Resolver::new(resolver::trees(&facts.cgroups));
    for fact in resolver.take() {
        if !sender.send(fact) {
            tracing::warn!("more cgroups than fit at start; the rest is looked up when needed");
            break;
        }
    }
    let (theirs, sender) = (control.clone(), sender.clone());
    tokio::task::spawn_blocking(move || resolver.run(&theirs, &sender));
    Ok(control)
}

fn start_sampler(counters: Arc<Counters>, mut disks: Disks, sender: FactSender) -> JoinHandle<()> {
    let mut last = None;
    if let Some(devices) = disks.refresh() {
        let _ = sender.send(devices);
    }
    tokio::spawn(async move {
        let mut interval = tokio::time::interval(SAMPLE_EVERY);
        loop {
            interval.tick().await;
            let mut facts: Vec<Fact> = disks.refresh().into_iter().collect();
            facts.extend(disks.read().into_iter().map(Fact::Disk));
            let reading = counters.read();
            let changed = last.replace((reading.sums, reading.missed)) != Some((reading.sums, reading.missed));
            facts.extend(changed.then_some(Fact::Counters(reading)));
            let dropped = facts.into_iter().filter(|f| !sender.send(f.clone())).count();
            if dropped > 0 {
                tracing::warn!(dropped, "readings were dropped: the reactor is behind");
            }
        }
    })
}

fn start_lines(
    mut lines: Lines,
    mut exporter: Exporter,
    resolver: Arc<resolver::Control>,
    stop_wanted: Arc<tokio::sync::Notify>,
) -> LineTask {
    tokio::task::spawn_blocking(move || {
        let mut unresolved = |_| {
            resolver.wanted.store(true, Ordering::Release);
            resolver.bell.ring_always();
        };
        let mut stream = std::io::BufWriter::new(std::io::stdout());
        let printed = lines.write(&mut exporter, &mut stream, &mut unresolved);
        if printed.is_err() {
            // What is left in the buffer cannot be printed either.
            let _ = stream.into_parts();
            stop_wanted.notify_one();
        } else {
            let _ = stream.flush();
        }
        (lines, exporter, printed)
    })
}

fn start_reactor(
    config: Config,
    mut source: Live,
    mut sink: Sink,
) -> Result<std::thread::JoinHandle<(Engine, Tally)>, CliError> {
    std::thread::Builder::new()
        .name("reactor".into())
        .spawn(move || {
            for grant in privilege::place_reactor(&config.reactor) {
                match grant.refused {
                    None => tracing::info!(what = grant.what, "granted"),
                    Some(refused) => tracing::warn!(what = grant.what, "{refused}"),
                }
            }
            let mut engine = Engine::new(&config);
            let mut push = |output: &_, decided| sink.push(output, decided);
            let tally = reactor::run(&mut source, &Decoder::live(), &mut engine, &mut push);
            (engine, tally)
        })
        .map_err(|source| CliError::System { what: "reactor thread", source })
}
