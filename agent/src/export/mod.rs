//! Export: what the engine said in, lines out. The same code serves the live run and the replay, so that a
//! replay prints the same bytes. Holds the tables of names that arrive in the stream.

mod flows;
pub mod json;
pub mod names;
pub mod pages;
pub mod text;
pub mod writer;

use faultline_common::sensor::SENSORS;

use crate::{
    engine::Engine,
    model::{entity::Tree, event::Event, input::CounterReading, output::Output},
    reactor::Tally,
    sensor::{self, health::Health},
    source::recording::ClockAnchor,
};
use names::Names;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people, with or without colour.
    Text {
        /// Whether the terminal wants colour.
        colour: bool,
    },
}

/// Turns outputs into lines.
#[derive(Debug)]
pub struct Exporter {
    /// Turns monotonic time into wall time.
    pub anchor: ClockAnchor,
    format: Format,
    events: bool,
    names: Names,
}

/// A sensor's health at the moment of printing.
#[derive(Clone, Debug)]
pub struct HealthLine<'a> {
    /// Sensor word.
    pub sensor: &'a str,
    /// `ok`, `degraded`, `unsupported` or `broken`.
    pub state: &'a str,
    /// Rung in use.
    pub hook: Option<&'a str>,
    /// Missing fields.
    pub missing: Vec<&'a str>,
    /// What is wrong.
    pub error: Option<String>,
}

impl<'a> HealthLine<'a> {
    /// Of a live sensor.
    pub fn of(number: usize, health: &'a Health) -> Self {
        Self {
            sensor: sensor::SENSORS[number].name,
            state: health.state(),
            hook: health.hook(),
            missing: health.missing().to_vec(),
            error: health.error(),
        }
    }
}

impl HealthLine<'_> {
    /// Of the kernel's log, which is no program: `error` says why it is not read.
    pub fn kernel_log(error: Option<String>) -> Self {
        let state = if error.is_some() { "unsupported" } else { "ok" };
        Self { sensor: "kernel_log", state, hook: error.is_none().then_some("kmsg"), missing: Vec::new(), error }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// When it ended, CLOCK_MONOTONIC ns.
    pub at_ns: u64,
    /// Frames by what became of them.
    pub tally: Tally,
    /// The last counters, if any were read.
    pub counters: Option<CounterReading>,
    /// Faults opened.
    pub faults: u64,
    /// Faults still open or clearing.
    pub alive: u64,
    /// Lines that the writer could not keep up with.
    pub lost_lines: u64,
}

impl Summary {
    /// From the books of the engine and the reactor.
    pub fn new(engine: &Engine, tally: Tally, lost_lines: u64) -> Self {
        Self {
            at_ns: engine.now_ns(),
            tally,
            counters: engine.counters().copied(),
            faults: engine.opened(),
            alive: engine.alive() as u64,
            lost_lines,
        }
    }

    /// Records submitted by the kernel side that neither decoded nor were malformed.
    pub fn in_flight(&self, sensor: usize) -> u64 {
        let submitted = self.counters.map_or(0, |c| c.sums[sensor][faultline_common::counter::SUBMITTED]);
        submitted.saturating_sub(self.tally.decoded[sensor] + self.tally.malformed[sensor])
    }
}

impl Exporter {
    /// A new exporter; `events` says whether every kernel event gets a line.
    pub fn new(anchor: ClockAnchor, format: Format, events: bool) -> Self {
        Self { anchor, format, events, names: Names::default() }
    }

    /// Appends the line of an output to `out`, if it has one.
    pub fn output(&mut self, output: &Output, decided_ns: Option<u64>, out: &mut String) {
        match output {
            Output::Cgroups(names) => self.names.learn_cgroups(names),
            Output::Devices(names) => self.names.learn_devices(names),
            Output::DropReasons(reasons) => self.names.learn_reasons(reasons),
            Output::Unresolved { .. } | Output::Act(_) => {}
            Output::Action(action) => match self.format {
                Format::Json => json::action(self, action, out),
                Format::Text { colour } => text::action(self, action, colour, out),
            },
            Output::Event(event) => self.event(event, out),
            Output::Fault(fault) => match self.format {
                Format::Json => json::fault(self, fault, decided_ns, out),
                Format::Text { colour } => text::fault(self, fault, decided_ns, colour, out),
            },
            Output::Loss(loss) => match self.format {
                Format::Json => json::loss(self, loss, out),
                Format::Text { colour } => text::loss(self, loss, colour, out),
            },
        }
    }

    fn event(&mut self, event: &Event, out: &mut String) {
        let owner = event.header().cgroup_id;
        match event {
            Event::ProcessExit(_) => self.names.touch(Tree::Process, owner),
            Event::OomKill(_) => self.names.touch(Tree::Memory, owner),
            Event::TaskHang(_) | Event::TcpRetransmit(_) | Event::TcpConnect(_) | Event::TcpReset(_) => {
                self.names.touch(Tree::Process, owner);
            }
            Event::BlockIo(_) | Event::PacketDrop(_) => {}
        }
        match self.format {
            _ if !self.events => {}
            Format::Json => json::event(self, event, out),
            Format::Text { colour } => text::event(self, event, colour, out),
        }
    }

    /// Appends a `health` line.
    pub fn health(&self, line: &HealthLine<'_>, at_ns: u64, out: &mut String) {
        match self.format {
            Format::Json => json::health(self, line, at_ns, out),
            Format::Text { colour } => text::health(line, colour, out),
        }
    }

    /// Appends the `summary` line.
    pub fn summary(&self, summary: &Summary, out: &mut String) {
        match self.format {
            Format::Json => json::summary(self, summary, out),
            Format::Text { .. } => text::summary(summary, out),
        }
    }

    /// The tables of names.
    pub fn names(&self) -> &Names {
        &self.names
    }
}

/// Sensor numbers in the order of [`sensor::SENSORS`].
pub(crate) fn sensors() -> std::ops::Range<usize> {
    0..SENSORS
}
