//! What runs between start and stop: every task and thread of a session, started in order and ended in order.
//! In: what was loaded. Out: the exit status, after one `summary`.
//!
//! The stop has one deadline for all of the drain, whoever hangs: the rings, a reader that does not read, a
//! disk that does not write. Whatever is not done by then is said, and the summary is printed all the same.

use std::{
    io::Write,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle};

use super::{
    CliError, FINDING,
    crew::{Crew, NameTaps},
    print,
    session::Plan,
};
use crate::{
    attribution::resolver::{self, Resolver},
    clock,
    config::{self, Config},
    decode::Decoder,
    engine::Engine,
    export::{
        Exporter, Summary,
        writer::{self, Lines, Sink},
    },
    heal::live::LiveHands,
    kernel::{KernelFacts, Root, hung_task},
    model::{input::Fact, output::Output},
    privilege,
    reactor::{self, Tally},
    sampler::{Counters, Disks},
    sensor::loader::{self, Loaded},
    source::{
        flight::{Flight, SEGMENTS, Shelf, Trigger},
        kmsg::{self, Kmsg},
        live::{self, FlightTee, Live},
        queue::{Doorbell, FactSender, Promises},
        recorder::{self, LastGap, Tail, Tee},
        recording::{Header, RecordingError, RecordingWriter},
    },
};

/// From the wish to stop to the summary, ns; 2 s are promised.
const STOP_NS: u64 = 1_800_000_000;
/// Of that, what is left for the lines and the recording when the rings never get empty, ns.
const TAIL_NS: u64 = 700_000_000;
/// How often arrays are sampled.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// When a stop must be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(u64);

impl Deadline {
    /// Counted from now.
    pub(super) fn start() -> Self {
        Self(clock::monotonic_ns() + STOP_NS)
    }

    pub(super) fn left(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(clock::monotonic_ns()))
    }
}

/// The recorder, from the open file to its end.
pub(super) struct Recording {
    tee: Option<Tee>,
    finish: Box<dyn FnOnce(Option<LastGap>) + Send>,
    task: JoinHandle<Result<(), RecordingError>>,
}

impl Recording {
    pub(super) fn start(path: &std::path::Path, header: &Header) -> Result<Self, CliError> {
        let writer = RecordingWriter::create(path, header)?;
        let (tee, tail) = recorder::pair().map_err(CliError::system("recorder queue"))?;
        let finish = Box::new(tail.finisher());
        let task = tokio::task::spawn_blocking(move || keep(tail, writer));
        Ok(Self { tee: Some(tee), finish, task })
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

/// Waits for the recording's tail; whether the file is whole.
async fn recorded(task: Option<JoinHandle<Result<(), RecordingError>>>, deadline: Deadline) -> bool {
    let Some(task) = task else { return true };
    match tokio::time::timeout(deadline.left(), task).await {
        Ok(done) => matches!(done, Ok(Ok(()))),
        Err(_) => {
            tracing::error!("the disk did not take the recording's tail in time; it is valid up to its last block");
            false
        }
    }
}

/// The flight recorder's task.
struct FlightTask {
    trigger: Trigger,
    finish: Box<dyn FnOnce(Option<LastGap>) + Send>,
    task: JoinHandle<()>,
}

impl FlightTask {
    fn start(config: &config::Flight, header: Header) -> Result<Option<(Self, FlightTee)>, CliError> {
        if !config.enabled {
            return Ok(None);
        }
        let (tee, tail, buffer) = recorder::flight_pair().map_err(CliError::system("flight recorder queue"))?;
        let finish = Box::new(tail.finisher());
        let shelf = Shelf { dir: config.directory(), keep: config.keep };
        let (flight, trigger) = Flight::new(tail, header, shelf);
        let task = tokio::task::spawn_blocking(move || flight.run());
        let tee = FlightTee::new(tee, buffer, config.window_ns / SEGMENTS as u64);
        Ok(Some((Self { trigger, finish, task }, tee)))
    }

    fn finish(self) -> JoinHandle<()> {
        (self.finish)(None);
        self.task
    }
}

/// Waits for a flight recording that is due at the end.
async fn flight_written(task: Option<JoinHandle<()>>, deadline: Deadline) {
    let Some(task) = task else { return };
    if tokio::time::timeout(deadline.left(), task).await.is_err() {
        tracing::warn!("a flight recording could not be written in time");
    }
}

/// What the reactor thread leaves behind.
struct Ended {
    engine: Engine,
    tally: Tally,
    sink: Sink,
    last_gap: Option<LastGap>,
}

type LineTask = JoinHandle<(Exporter, std::io::Result<()>)>;

/// What is opened before the reactor starts.
pub(super) struct Opened {
    /// Has walked the cgroups.
    pub resolver: Resolver,
    /// Where `--record` asks for one.
    pub recording: Option<Recording>,
    /// Where it can be read.
    pub kernel_log: Option<Kmsg>,
}

/// Everything that runs until the stop.
pub(super) struct Running {
    reactor: std::thread::JoinHandle<Ended>,
    control: Arc<live::Control>,
    bell: Arc<Doorbell>,
    lines: LineTask,
    finish_lines: Box<dyn FnOnce() + Send>,
    recording: Option<Recording>,
    flight: Option<FlightTask>,
    crew: Crew,
    resolver: Arc<resolver::Control>,
    kmsg: Option<kmsg::Control>,
    sampler: JoinHandle<()>,
    /// Notified when going on makes no sense: nobody reads the lines any more, or the reactor ended.
    pub(super) stop_wanted: Arc<Notify>,
}

impl Running {
    pub(super) fn start(
        plan: &Plan,
        facts: &KernelFacts,
        opened: Opened,
        loaded: &mut Loaded,
        exporter: Exporter,
        header: Header,
    ) -> Result<Self, CliError> {
        let Opened { resolver, mut recording, kernel_log } = opened;
        let (sender, queue, bell) = FactSender::new().map_err(CliError::system("fact queue"))?;
        let counters = Arc::new(Counters::new(loaded.arrays.clone(), std::mem::take(&mut loaded.programs)));
        let disks = Disks::new(loaded.arrays.clone(), plan.config.detect.disk_latency);
        // Who is never touched comes before the first name of anything.
        let promises = Promises::default();
        let (crew, hands) = Crew::start(&plan.config, &facts.cgroups, &sender, &promises);
        let reasons = Fact::DropReasons(std::mem::take(&mut loaded.drop_reasons).into());
        if !sender.send(reasons) {
            tracing::warn!("drop reasons have numbers instead of names");
        }
        if let Some(every_ns) = hung_task::check_every_ns(&Root::live()) {
            let _ = sender.send(Fact::HangCheck { every_ns });
        }
        let resolver = start_resolver(resolver, &sender, crew.taps())?;
        let kmsg = kernel_log.and_then(|log| start_kmsg(log, &sender));
        let sampler = start_sampler(counters.clone(), disks, sender);
        let (sink, lines) = writer::pair().map_err(CliError::system("line queue"))?;
        let finish_lines = Box::new(lines.finisher());
        let stop_wanted = Arc::new(Notify::new());
        let lines = start_lines(lines, exporter, resolver.clone(), stop_wanted.clone());
        let control = Arc::new(live::Control::default());
        let (flight, flight_tee) = FlightTask::start(&plan.config.flight, header)?.unzip();
        let source = Live::new(live::Parts {
            critical: loaded.critical.take().ok_or(loader::LoadError::Drift { map: "CRITICAL" })?,
            bulk: loaded.bulk.take().ok_or(loader::LoadError::Drift { map: "BULK" })?,
            facts: queue,
            bell: bell.clone(),
            control: control.clone(),
            spin: plan.config.reactor.spin,
            tee: recording.as_mut().and_then(|r| r.tee.take()),
            flight: flight_tee,
            last_facts: last_facts(counters),
            promises,
        })
        .map_err(CliError::system("epoll"))?;
        let trigger = flight.as_ref().map(|flight| flight.trigger.clone());
        let reactor = start_reactor(plan.config.clone(), source, hands, sink, trigger, stop_wanted.clone())?;
        Ok(Self {
            reactor,
            control,
            bell,
            lines,
            finish_lines,
            recording,
            flight,
            crew,
            resolver,
            kmsg,
            sampler,
            stop_wanted,
        })
    }

    /// Drains, ends every task, and prints the summary. `spare` prints it where the line writer hangs.
    pub(super) async fn finish(self, deadline: Deadline, spare: Exporter) -> Result<ExitCode, CliError> {
        self.sampler.abort();
        self.resolver.stop();
        if let Some(kmsg) = &self.kmsg {
            kmsg.stop();
        }
        self.control.stop_by(deadline.0 - TAIL_NS);
        self.bell.ring_always();
        let reactor = self.reactor;
        let joined = tokio::task::spawn_blocking(move || reactor.join()).await;
        (self.finish_lines)();
        let Ok(Ok(ended)) = joined else {
            // What was said before the panic is still printed; the recording is left without an end, as it is.
            let _ = tokio::time::timeout(deadline.left(), self.lines).await;
            return Err(CliError::Reactor);
        };
        let recording = self.recording.map(|recording| {
            (recording.finish)(ended.last_gap);
            recording.task
        });
        // All end by themselves; they are waited for at the same time.
        let flown = self.flight.map(FlightTask::finish);
        let (lines, whole, (), ()) = tokio::join!(
            tokio::time::timeout(deadline.left(), self.lines),
            recorded(recording, deadline),
            flight_written(flown, deadline),
            self.crew.finish(deadline)
        );
        let summary = Summary::new(&ended.engine, ended.tally, ended.sink.lost());
        let Ok(Ok((mut exporter, printed))) = lines else {
            return Err(nobody_reads(&spare, &summary));
        };
        printed?;
        print_rest(&mut exporter, ended.sink, &summary)?;
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(FINDING) })
    }
}

fn print_rest(exporter: &mut Exporter, sink: Sink, summary: &Summary) -> Result<(), CliError> {
    let mut text = String::new();
    sink.rest().for_each(|output| exporter.output(&output, None, &mut text));
    exporter.summary(summary, &mut text);
    print(&text)
}

/// The way to standard output is blocked, most likely in the middle of a line: the summary goes to standard error.
fn nobody_reads(exporter: &Exporter, summary: &Summary) -> CliError {
    let mut text = String::new();
    exporter.summary(summary, &mut text);
    let _ = std::io::stderr().write_all(text.as_bytes());
    CliError::Print(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "nobody reads the lines; the summary went to standard error",
    ))
}

/// The counters once more, after the drain.
fn last_facts(counters: Arc<Counters>) -> live::LastFacts {
    let mut left = Some(counters);
    Box::new(move || left.take().map(|counters| Fact::Counters(counters.read())))
}

fn start_resolver(
    mut resolver: Resolver,
    sender: &FactSender,
    taps: NameTaps,
) -> Result<Arc<resolver::Control>, CliError> {
    let control = Arc::new(resolver::Control::new().map_err(CliError::system("resolver doorbell"))?);
    let first = resolver.take();
    for fact in first {
        if let Fact::Cgroups(names) = &fact {
            taps.tell_first(names);
        }
        if !sender.send(fact) {
            tracing::warn!("more cgroups than fit at start; the rest is looked up when needed");
            break;
        }
    }
    let (theirs, sender) = (control.clone(), sender.clone());
    tokio::task::spawn_blocking(move || {
        let mut tap = |fact: &Fact| {
            if let Fact::Cgroups(names) = fact {
                taps.tell(names);
            }
        };
        resolver.run(&theirs, &sender, &mut tap);
    });
    Ok(control)
}

/// The kernel's log, as far as it can be read; without it the sensors still feel.
fn start_kmsg(log: Kmsg, sender: &FactSender) -> Option<kmsg::Control> {
    let control =
        kmsg::Control::new().inspect_err(|error| tracing::warn!(%error, "the kernel's log is not read")).ok()?;
    let (theirs, sender) = (control.clone(), sender.clone());
    tokio::task::spawn_blocking(move || log.run(&theirs, &sender));
    Some(control)
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
    stop_wanted: Arc<Notify>,
) -> LineTask {
    tokio::task::spawn_blocking(move || {
        let mut unresolved = |id| resolver.want(id);
        let mut stream = std::io::BufWriter::new(std::io::stdout());
        let printed = lines.write(&mut exporter, &mut stream, &mut unresolved);
        if printed.is_err() {
            // What is left in the buffer cannot be printed either.
            let _ = stream.into_parts();
            stop_wanted.notify_one();
        } else {
            let _ = stream.flush();
        }
        (exporter, printed)
    })
}

/// Tells the session when it is dropped, also by a panic.
struct TellEnd(Arc<Notify>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn start_reactor(
    config: Config,
    mut source: Live,
    mut hands: LiveHands,
    mut sink: Sink,
    trigger: Option<Trigger>,
    stop_wanted: Arc<Notify>,
) -> Result<std::thread::JoinHandle<Ended>, CliError> {
    std::thread::Builder::new()
        .name("reactor".into())
        .spawn(move || {
            // Without the reactor nothing is judged: a panic ends the agent at once, not at the next stop.
            let _tell = TellEnd(stop_wanted);
            for grant in privilege::place_reactor(&config.reactor) {
                match grant.refused {
                    None => tracing::info!(what = grant.what, "granted"),
                    Some(refused) => tracing::warn!(what = grant.what, "{refused}"),
                }
            }
            let mut engine = Engine::new(&config);
            let mut push = |output: &Output, decided| {
                if let (Some(trigger), Some(fault)) = (&trigger, output.opened()) {
                    trigger.pull(fault);
                }
                sink.push(output, decided);
            };
            let tally = reactor::run(&mut source, &Decoder::live(), &mut engine, &mut hands, &mut push);
            Ended { engine, tally, sink, last_gap: source.last_gap() }
        })
        .map_err(|source| CliError::System { what: "reactor thread", source })
}
