//! Two takers of the same events. In: an own loaded object and a generator's children. Out: for each, the time from the
//! kernel's stamp to the moment it was dealt with.
//!
//! [`agent`] is the way of the agent: `Live`, `Decoder`, `Engine`, the sink with its line writer; stamped when `step` has
//! returned. [`bare`] is the least that anybody can do: one epoll, one ring, one look at the clock; a program of its own
//! (`faultline-bare`), so that nothing of the agent's memory or threads is in it. Both load the same object with the same
//! rings and run under the same priority on the same CPU.

use std::{io::Write, os::fd::AsFd, path::PathBuf, process::Command, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use faultline::{
    clock::{anchor, monotonic_ns},
    config::Config,
    decode::Decoder,
    engine::{Engine, OUTPUTS},
    export::{Exporter, Format, writer},
    model::{
        event::Event,
        input::{Fact, Input},
        output::Output,
    },
    sensor::loader::{self, Loaded},
    source::{
        EventSource, Taken,
        flight::{Flight, SEGMENTS, Shelf},
        live::{Control, FlightTee, Live, Parts},
        queue::{FactSender, Promises},
        recorder::{self, Tee},
    },
};
use faultline_common::event::{COMM_LEN, ProcessExit};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    alloc,
    machine::{self, Owned, Places},
    synthetic::header,
};

/// Who takes the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// The agent's own way.
    Agent,
    /// A ring and a clock.
    Bare,
}

/// What a taker is told.
#[derive(Clone, Debug)]
pub struct Task {
    /// `always` or `never`: the configuration's words for how to wait.
    pub spin: &'static str,
    /// Events of which the times are wanted ...
    pub count: usize,
    /// ... after this many that only warm caches.
    pub warm: usize,
    /// Name of the children; other processes of the machine are not measured.
    pub name: String,
}

/// What it measured.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Kernel to decision, ns, in order.
    pub latencies: Vec<f64>,
    /// Calls to the allocator meanwhile, on the thread that decides.
    pub allocations: u64,
}

/// Starts a taker on a CPU and waits until its programs are attached.
///
/// # Errors
/// It cannot be started, or cannot load.
pub fn start(taker: Taker, task: &Task, places: Places) -> Result<Running> {
    let mut command = match taker {
        Taker::Agent => machine::own_program(),
        Taker::Bare => Command::new(beside()?),
    };
    if taker == Taker::Agent {
        command.args(["role", "consume"]);
    }
    command.args([task.spin, &task.count.to_string(), &task.warm.to_string(), &task.name]);
    command.arg(places.generator.to_string());
    let mut child = Owned::start(command, Some(places.consumer))?;
    let ready = child.line()?;
    ensure!(ready == "ready", "a consumer says `{ready}`");
    Ok(Running(child))
}

/// The bare consumer's program.
///
/// # Errors
/// It is not beside this one.
pub(super) fn beside() -> Result<PathBuf> {
    let path = std::env::current_exe().context("where this program is")?.with_file_name("faultline-bare");
    ensure!(path.is_file(), "{} is not there; `cargo xtask bench` builds it", path.display());
    Ok(path)
}

/// A taker at work.
#[derive(Debug)]
pub struct Running(Owned);

impl Running {
    /// Waits until it has seen all.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> Result<Times> {
        let allocations = self.0.line()?.parse().context("a count of allocations")?;
        let line = self.0.line()?;
        let latencies = line.split(' ').map(str::parse).collect::<Result<_, _>>().context("times in ns")?;
        self.0.wait()?;
        Ok(Times { latencies, allocations })
    }
}

struct Orders {
    config: Config,
    count: usize,
    warm: usize,
    name: [u8; COMM_LEN],
    /// CPU for what is not on the way of an event.
    aside: usize,
}

impl Orders {
    fn parse(args: &[String]) -> Result<Self> {
        let [spin, count, warm, name, aside] = args else { bail!("SPIN COUNT WARM NAME CPU are expected") };
        let config = machine::config(spin, "")?.0;
        Ok(Self { config, count: count.parse()?, warm: warm.parse()?, name: comm(name), aside: aside.parse()? })
    }

    fn load(&self) -> Result<Loaded> {
        faultline::privilege::lock_memory();
        Ok(loader::load(&machine::facts(), &self.config, &loader::Options::default())?)
    }

    fn times(&self) -> Vec<u64> {
        Vec::with_capacity(self.count + self.warm)
    }
}

/// A name as the kernel keeps it.
pub fn comm(name: &str) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    for (to, from) in comm.iter_mut().take(COMM_LEN - 1).zip(name.bytes()) {
        *to = from;
    }
    comm
}

fn say_ready() -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "ready")?;
    Ok(out.flush()?)
}

fn say(times: &[u64], warm: usize, allocations: u64) -> Result<()> {
    let words: Vec<String> = times.iter().skip(warm).map(u64::to_string).collect();
    writeln!(std::io::stdout(), "{allocations}\n{}", words.join(" "))?;
    Ok(())
}

/// The bare consumer: what `faultline-bare` does.
///
/// # Errors
/// Wrong arguments, or the object cannot be loaded.
pub fn bare(args: &[String]) -> Result<()> {
    let orders = Orders::parse(args)?;
    let mut loaded = orders.load()?;
    let mut ring = loaded.critical.take().context("the critical ring")?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(ring.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    let spins = orders.config.reactor.spin == faultline::config::Spin::Always;
    let mut times = orders.times();
    say_ready()?;
    while times.len() < orders.count + orders.warm {
        while let Some(record) = ring.next() {
            let ktime = record.get(..8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
            let now = monotonic_ns();
            if ProcessExit::from_bytes(&record).is_some_and(|e| e.comm == orders.name) {
                times.push(now.saturating_sub(ktime));
            }
        }
        if !spins {
            let _ = epoll.wait(&mut [EpollEvent::empty(); 4], EpollTimeout::from(250u8));
        }
    }
    say(&times, orders.warm, 0)
}

/// The agent's way: role `consume` of `faultline-bench`.
///
/// # Errors
/// Wrong arguments, or the object cannot be loaded.
pub fn agent(args: &[String]) -> Result<()> {
    let orders = Orders::parse(args)?;
    let mut loaded = orders.load()?;
    let flight = fly(&orders.config, orders.aside)?;
    let mut source = live(&mut loaded, &orders.config, None, Some(flight))?.0;
    let lines = Discarded::start(&orders.config, orders.aside)?;
    let mut sink = lines.sink;
    let (decoder, mut engine) = (Decoder::live(), Engine::new(&orders.config));
    let mut outputs: Vec<Output> = Vec::with_capacity(OUTPUTS);
    let mut times = orders.times();
    say_ready()?;
    while times.len() < orders.count + orders.warm {
        let (input, ktime) = match source.next() {
            Taken::Frame(frame) => match decoder.decode(frame) {
                Ok(event) => (Input::Event(event), ours(&event, &orders.name)),
                Err(malformed) => (Input::Malformed { sensor: malformed.sensor }, None),
            },
            Taken::Fact(fact) => (Input::Fact(fact), None),
            Taken::Aside(_) | Taken::End => bail!("the source ended by itself"),
        };
        engine.step(&input, &mut outputs);
        let now = monotonic_ns();
        if let Some(ktime) = ktime {
            times.push(now.saturating_sub(ktime));
            if times.len() == orders.warm {
                alloc::start();
            }
        }
        outputs.drain(..).for_each(|output| sink.push(&output, Some(now)));
        if let Input::Fact(Fact::Tick { .. }) = input {
            source.mark(&mut |buffer| engine.save(buffer));
        }
    }
    let allocations = alloc::stop();
    (lines.finish)();
    let _ = lines.writer.join();
    say(&times, orders.warm, allocations)
}

fn ours(event: &Event, name: &[u8; COMM_LEN]) -> Option<u64> {
    match event {
        Event::ProcessExit(e) if e.comm == *name => Some(e.header.ktime_ns),
        _ => None,
    }
}

/// A live source over loaded rings, with its control and the way of facts into it.
///
/// # Errors
/// The rings were taken before, or the kernel has no more descriptors.
pub fn live(
    loaded: &mut Loaded,
    config: &Config,
    tee: Option<Tee>,
    flight: Option<FlightTee>,
) -> Result<(Live, Arc<Control>, FactSender)> {
    let (sender, facts, bell) = FactSender::new()?;
    let control = Arc::new(Control::default());
    let source = Live::new(Parts {
        critical: loaded.critical.take().context("the critical ring")?,
        bulk: loaded.bulk.take().context("the bulk ring")?,
        facts,
        bell,
        control: control.clone(),
        spin: config.reactor.spin,
        tee,
        flight,
        last_facts: Box::new(|| None),
        promises: Promises::default(),
    })?;
    Ok((source, control, sender))
}

/// The flight recorder as a session has it, its keeping half on a thread aside; nobody asks for a dump.
///
/// # Errors
/// No descriptor or no thread.
pub fn fly(config: &Config, cpu: usize) -> Result<FlightTee> {
    let (tee, tail, buffer) = recorder::flight_pair()?;
    let shelf = Shelf { dir: config.flight.directory(), keep: config.flight.keep };
    let (flight, _) = Flight::new(tail, header(), shelf);
    let keep = move || {
        let _ = machine::pin(cpu);
        flight.run();
    };
    std::thread::Builder::new().name("flight".into()).spawn(keep)?;
    Ok(FlightTee::new(tee, buffer, config.flight.window_ns / SEGMENTS as u64))
}

/// The agent's line writer, on a thread aside, into nothing.
pub struct Discarded {
    /// The reactor's half.
    pub sink: writer::Sink,
    /// Ends the thread once its queue is empty.
    pub finish: Box<dyn FnOnce() + Send>,
    /// The thread.
    pub writer: std::thread::JoinHandle<()>,
}

impl Discarded {
    /// Starts it on a CPU.
    ///
    /// # Errors
    /// No descriptor or no thread.
    pub fn start(config: &Config, cpu: usize) -> Result<Self> {
        let (sink, mut lines) = writer::pair()?;
        let finish = Box::new(lines.finisher());
        let mut exporter = Exporter::new(anchor(), Format::Json, config.events);
        let write = move || {
            let _ = machine::pin(cpu);
            let _ = lines.write(&mut exporter, &mut std::io::sink(), &mut |_| {});
        };
        let writer = std::thread::Builder::new().name("lines".into()).spawn(write)?;
        Ok(Self { sink, finish, writer })
    }
}
