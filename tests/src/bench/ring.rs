//! (d) Rings from end to end. In: generators at rising rates, the last of them more than the consumer can take. Out: what
//! arrived, what the kernel side counted as lost, and what was truly lost by the generator's own count.
//!
//! Overload is real starvation: small rings, and a consumer of the idle class on the generators' own CPU. Other
//! processes of the machine may die meanwhile; the books say how many records that were not ours there were, and by so
//! much (and never in the other direction) the two losses may differ.
#![expect(unsafe_code, reason = "sched_setscheduler has no safe wrapper")]

use anyhow::{Context, Result, ensure};
use faultline::{
    clock::monotonic_ns,
    config::Config,
    decode::Decoder,
    engine::Engine,
    model::{event::Event, input::CounterReading, output::Output},
    privilege::wait_for_programs,
    reactor::{self, NoHands},
    sampler::Counters,
    sensor::loader,
};
use faultline_common::{
    counter::{LIMITED, RING_FULL, SUBMITTED},
    sensor::PROCESS_EXIT,
};

use super::{
    Bench,
    consumer::{comm, live},
    generator::{self, Death, Made, Order},
    machine,
    report::{Measure, Report},
    stats::quantile,
};

const NAME: &str = "fl-bench-ring";
const SMALL_RINGS: &str = "[rings]\ncritical_bytes = 16384\nbulk_bytes = 16384\n";

/// All rates.
///
/// # Errors
/// Something cannot be loaded or started.
pub fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let seconds = if bench.quick { 1 } else { 3 };
    for rate in [1000, 5000, 10_000, 0] {
        let count = if rate == 0 { 20_000 * seconds } else { rate * seconds };
        let order = Order { count, rate, death: Death::Mixed };
        let (word, demand) = match rate {
            0 => ("as fast as it goes".to_owned(), Demand::Honest),
            _ => (format!("{rate}/s"), Demand::All),
        };
        Level { order, starved: false }.run(bench)?.report(&word, demand, report);
    }
    let order = Order { count: 20_000 * seconds, rate: 0, death: Death::Mixed };
    Level { order, starved: true }.run(bench)?.report("overload", Demand::Overload, report);
    Ok(())
}

/// What a level must show.
#[derive(Clone, Copy, Debug)]
enum Demand {
    /// Nothing lost.
    All,
    /// Whatever is lost is counted.
    Honest,
    /// Something is lost, and counted.
    Overload,
}

struct Level {
    order: Order,
    starved: bool,
}

/// What a level came to.
struct Outcome {
    made: Made,
    arrived: u64,
    /// ns from the kernel's stamp to the sink.
    delays: Vec<f64>,
    books: CounterReading,
}

impl Level {
    fn run(&self, bench: &Bench) -> Result<Outcome> {
        let more = if self.starved { SMALL_RINGS } else { "" };
        let config = machine::config("adaptive", more)?.0;
        let mut loaded = loader::load(&machine::facts(), &config, &loader::Options::default())?;
        let counters = Counters::new(loaded.arrays.clone(), std::mem::take(&mut loaded.programs));
        let (source, control, sender) = live(&mut loaded, &config, None, None)?;
        let cpu = if self.starved { bench.places.generator } else { bench.places.consumer };
        let (starved, capacity) = (self.starved, self.order.count as usize);
        let consumer = std::thread::spawn(move || consume(source, &config, cpu, starved, capacity));
        let made = generator::start(self.order, NAME, bench.places.generator)?.finish();
        loaded.detach();
        wait_for_programs();
        control.stop_by(u64::MAX);
        let stopping = faultline::model::input::Fact::Tick { now_ns: monotonic_ns() };
        ensure!(sender.send(stopping), "the consumer's queue of facts is full");
        let (arrived, delays) = consumer.join().map_err(|_| anyhow::anyhow!("the consumer panicked"))??;
        Ok(Outcome { made: made?, arrived, delays, books: counters.read() })
    }
}

/// The reactor with a sink that counts the generator's children.
fn consume(
    mut source: faultline::source::live::Live,
    config: &Config,
    cpu: usize,
    starved: bool,
    capacity: usize,
) -> Result<(u64, Vec<f64>)> {
    machine::pin(cpu).context("cannot pin the consumer")?;
    if !starved {
        machine::hurry();
    } else {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: a valid pointer to a local; the calling thread only.
        let rc = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const param) };
        ensure!(rc == 0, "SCHED_IDLE: {}", std::io::Error::last_os_error());
    }
    let (name, mut arrived, mut delays) = (comm(NAME), 0, Vec::with_capacity(capacity));
    let mut engine = Engine::new(config);
    let mut sink = |output: &Output, _| {
        if let Output::Event(Event::ProcessExit(e)) = output
            && e.comm == name
        {
            arrived += 1;
            delays.push(monotonic_ns().saturating_sub(e.header.ktime_ns) as f64);
        }
    };
    reactor::run(&mut source, &Decoder::live(), &mut engine, &mut NoHands, &mut sink);
    Ok((arrived, delays))
}

impl Outcome {
    fn report(mut self, word: &str, demand: Demand, report: &mut Report) {
        let sums = &self.books.sums[usize::from(PROCESS_EXIT)];
        let missed = self.books.missed[usize::from(PROCESS_EXIT)].unwrap_or(0);
        let counted = sums[RING_FULL] + sums[LIMITED] + missed;
        let lost = self.made.count.saturating_sub(self.arrived);
        // Records and refusals that were not the generator's.
        let others = (sums[SUBMITTED] + counted).saturating_sub(self.made.count);
        let agree = counted >= lost && counted - lost <= others;
        let share = 100.0 * lost as f64 / self.made.count.max(1) as f64;
        let loss = Measure::new(format!("ring.loss ({word})"), counted as f64, "records").note(format!(
            "true loss {lost} of {} ({share:.1} %) at {:.0}/s; ring_full {}, limited {}, missed {missed}; {others} records of others",
            self.made.count,
            self.made.rate(),
            sums[RING_FULL],
            sums[LIMITED],
        ));
        report.add(match demand {
            Demand::All => loss.bar("counted = true = 0", agree && lost == 0),
            Demand::Honest => loss.bar("counted = true", agree),
            Demand::Overload => loss.bar("counted = true, and some", agree && lost > 0),
        });
        let (p50, p99) = (quantile(&mut self.delays, 0.5), quantile(&mut self.delays, 0.99));
        let delay = Measure::new(format!("ring.delay.p99 ({word})"), p99 / 1000.0, "us");
        report.add(delay.note(format!("p50 {:.1} us, kernel to sink", p50 / 1000.0)));
    }
}
