//! (c) Events per second of decode and engine on one core. In: a synthetic recording, read into memory beforehand. Out:
//! how many of its events the reactor's own loop takes per second.

use std::hint::black_box;

use anyhow::Result;
use faultline::{
    clock::monotonic_ns,
    config::Config,
    decode::Decoder,
    engine::Engine,
    reactor::{self, NoHands},
};

use super::{
    Bench, machine,
    memory::Inputs,
    report::{Measure, Report},
    stats::{median, median_interval},
    synthetic::{self, Contents},
};

const WANTED: f64 = 3e6;

/// The rate over several passes, by this build's layout and by the recording's field tables.
///
/// # Errors
/// The recording cannot be written or read.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let path = bench.scratch.path("synthetic.flrec");
    let contents = synthetic::write(&path, if bench.quick { 200_000 } else { 1_000_000 })?;
    let inputs = Inputs::read(&path)?;
    let config = Config::parse(synthetic::CONFIG, "bench")?;
    let passes = if bench.quick { 5 } else { 11 };
    // A thread of its own, for the benchmark's main thread must stay free to start children on any CPU.
    std::thread::scope(|scope| {
        let work = || -> Result<()> {
            machine::pin(bench.places.consumer)?;
            machine::hurry();
            let decoders =
                [("live layout", Decoder::live()), ("recorded layout", Decoder::for_recording(&inputs.tables)?)];
            for (word, decoder) in decoders {
                let rates: Vec<f64> = (0..passes).map(|_| pass(&inputs, &decoder, &config, &contents)).collect();
                report.add(line(word, &rates, &contents, inputs.len()));
            }
            Ok(())
        };
        scope.spawn(work).join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
    })
}

/// One pass from a fresh engine; events per second.
fn pass(inputs: &Inputs, decoder: &Decoder, config: &Config, contents: &Contents) -> f64 {
    let mut engine = Engine::new(config);
    let mut source = inputs.source(None);
    let begin = monotonic_ns();
    let tally = reactor::run(&mut source, decoder, &mut engine, &mut NoHands, &mut |output, _| {
        black_box(output);
    });
    let took = monotonic_ns() - begin;
    debug_assert_eq!(tally.decoded.iter().sum::<u64>(), contents.events);
    contents.events as f64 * 1e9 / took as f64
}

fn line(word: &str, rates: &[f64], contents: &Contents, inputs: usize) -> Measure {
    let rate = median(rates);
    let share = contents.candidates as f64 / contents.events as f64;
    let sensors = contents.by_sensor.iter().filter(|n| **n > 0).count();
    let realistic = share >= 0.3 && contents.entities >= 1000 && sensors == contents.by_sensor.len();
    let note = format!(
        "{} events of {sensors} sensors, {} entities, {:.0} % candidates, {inputs} inputs",
        contents.events,
        contents.entities,
        100.0 * share
    );
    let measure = Measure::new(format!("engine.rate ({word})"), rate, "events/s").within(median_interval(rates));
    measure.note(note).bar(">= 3,000,000/s", rate >= WANTED && realistic)
}
