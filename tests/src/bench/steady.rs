//! (f) Allocations in the steady state. In: real events through the real rings, and a recording of all sensors. Out: how
//! often the reactor's thread called the allocator after its first events: never.
//!
//! The whole path is under the counter: source, tee of the recorder, decode, engine, outputs, sink. The counter starts after
//! the first inputs, by which every buffer has its size, and ends before the reactor takes its buffers down.

use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use faultline::{
    clock::{anchor, monotonic_ns},
    config::Config,
    decode::Decoder,
    engine::Engine,
    model::input::Fact,
    privilege::wait_for_programs,
    reactor::{self, NoHands},
    sampler::Counters,
    sensor::loader,
    source::{
        EventSource, Taken,
        recorder::{self, Tee},
        recording::{Header, RecordingError, RecordingReader, RecordingWriter},
    },
};

use super::{
    Bench, acting, alloc,
    consumer::{Discarded, fly, live},
    generator::{self, Death, Order},
    machine,
    memory::Inputs,
    report::{Measure, Report},
    synthetic,
};

/// Real events.
const EVENTS: u64 = 6000;
const RATE: u64 = 3000;
/// Inputs before the count.
const WARM: u64 = 1000;

/// Both sources.
///
/// # Errors
/// Something cannot be loaded, written or read.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let path = bench.scratch.path("steady.flrec");
    synthetic::write(&path, 60_000)?;
    let header = RecordingReader::open(&path)?.header().clone();
    let (calls, inputs) = from_rings(bench, &header)?;
    report.add(line("steady.allocations (rings)", calls, inputs));
    let (calls, inputs) = from_memory(bench, &Inputs::read(&path)?, &header)?;
    report.add(line("steady.allocations (all sensors)", calls, inputs));
    acting::measure(bench, report)
}

fn line(name: &str, calls: u64, inputs: u64) -> Measure {
    let note = format!("over {inputs} inputs through source, tee, decode, engine and sink");
    let enough = inputs >= EVENTS / 2;
    Measure::new(name, calls as f64, "calls").note(note).bar("none", calls == 0 && enough)
}

/// A source that switches the counter on after some inputs and off at the end.
struct Watched<S> {
    inner: S,
    taken: u64,
    calls: u64,
}

impl<S: EventSource> EventSource for Watched<S> {
    fn next(&mut self) -> Taken<'_> {
        self.taken += 1;
        if self.taken == WARM {
            alloc::start();
        }
        let taken = self.inner.next();
        if matches!(taken, Taken::End) {
            self.calls = alloc::stop();
        }
        taken
    }

    fn decided(&mut self) -> Option<u64> {
        self.inner.decided()
    }

    fn mark(&mut self, save: &mut dyn FnMut(&mut [u8]) -> Option<usize>) {
        self.inner.mark(save);
    }
}

/// Runs the reactor; calls to the allocator and inputs counted.
fn run(inner: impl EventSource, decoder: &Decoder, config: &Config, lines: &mut Discarded) -> (u64, u64) {
    let mut engine = Engine::new(config);
    let mut source = Watched { inner, taken: 0, calls: 0 };
    reactor::run(&mut source, decoder, &mut engine, &mut NoHands, &mut |output, decided| {
        lines.sink.push(output, decided);
    });
    (source.calls, source.taken.saturating_sub(WARM))
}

/// The recorder's task.
struct Recorder {
    finish: Box<dyn FnOnce() + Send>,
    task: JoinHandle<Result<(), RecordingError>>,
}

impl Recorder {
    fn start(bench: &Bench, header: &Header) -> Result<(Tee, Self)> {
        let writer = RecordingWriter::create(bench.scratch.path("teed.flrec"), header)?;
        let (tee, tail) = recorder::pair()?;
        let finish = tail.finisher();
        let finish = Box::new(move || finish(None));
        Ok((tee, Self { finish, task: std::thread::spawn(move || recorder::write(tail, writer)) }))
    }

    fn end(self) -> Result<()> {
        (self.finish)();
        Ok(self.task.join().map_err(|_| anyhow::anyhow!("the recorder panicked"))??)
    }
}

fn from_rings(bench: &Bench, header: &Header) -> Result<(u64, u64)> {
    let config = machine::config("adaptive", "")?.0;
    let mut loaded = loader::load(&machine::facts(), &config, &loader::Options::default())?;
    let counters = Counters::new(loaded.arrays.clone(), std::mem::take(&mut loaded.programs));
    let (tee, recorder) = Recorder::start(bench, header)?;
    let (source, control, sender) = live(&mut loaded, &config, Some(tee), Some(fly(&config, bench.places.generator)?))?;
    let mut lines = Discarded::start(&config, bench.places.generator)?;
    let cpu = bench.places.consumer;
    let reactor = std::thread::spawn(move || -> Result<_> {
        machine::pin(cpu).context("cannot pin the reactor")?;
        Ok((run(source, &Decoder::live(), &config, &mut lines), lines))
    });
    let order = Order { count: EVENTS / 4, rate: RATE, death: Death::Mixed };
    for _ in 0..4 {
        generator::start(order, "fl-bench-gen", bench.places.generator)?.finish()?;
        ensure!(sender.send(Fact::Counters(counters.read())), "the reactor's queue of facts is full");
    }
    loaded.detach();
    wait_for_programs();
    control.stop_by(u64::MAX);
    let last = Fact::Tick { now_ns: monotonic_ns() };
    ensure!(sender.send(last), "the reactor's queue of facts is full");
    let (result, lines) = reactor.join().map_err(|_| anyhow::anyhow!("the reactor panicked"))??;
    (lines.finish)();
    let _ = lines.writer.join();
    recorder.end()?;
    Ok(result)
}

fn from_memory(bench: &Bench, inputs: &Inputs, header: &Header) -> Result<(u64, u64)> {
    let config = Config::parse(synthetic::CONFIG, "bench")?;
    let header = Header { anchor: anchor(), ..header.clone() };
    let (mut tee, recorder) = Recorder::start(bench, &header)?;
    let mut lines = Discarded::start(&config, bench.places.generator)?;
    let result = run(inputs.source(Some(&mut tee)), &Decoder::live(), &config, &mut lines);
    (lines.finish)();
    let _ = lines.writer.join();
    drop(tee);
    recorder.end()?;
    Ok(result)
}
