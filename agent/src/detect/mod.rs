//! Detect: events and readings in, signals out. One file per family; each detector is O(1) per event, with
//! bounded state, and knows nothing of life cycles, classes or lines.
#![forbid(unsafe_code)]

pub mod crash;
pub mod disk;
pub mod hang;
pub mod kernel_log;
pub mod network;
pub mod recent;
pub mod retransmit;

use crate::{
    attribution::units::Units,
    config::Config,
    correlate::OomVictims,
    model::{
        entity::{Entity, Tree},
        event::{self, Event},
        evidence::{Evidence, Value},
        fault::{Kind, Severity, Signal},
        input::Fact,
        snapshot::{Loader, Saver, SnapshotError},
    },
};
use faultline_common::event::OomKill;

/// What detectors may look at besides the input: shared, bounded, fed by inputs only.
#[derive(Debug)]
pub struct Context {
    /// Which cgroup is which unit, and which are watched.
    pub units: Units,
    /// Processes chosen by the OOM killer.
    pub victims: OomVictims,
    /// The exit at hand is the doing of an action of the agent's own.
    pub own_doing: bool,
}

/// Signals of one step; at most a few.
pub type Signals = Vec<Signal>;

/// Signals one step can make without growing its buffer: every peer of a sweep.
pub const MAX_SIGNALS: usize = 4096;

/// A detector: O(1) per call, no clock, no allocation after construction.
pub trait Detector {
    /// An event passed.
    fn observe(&mut self, event: &Event, context: &mut Context, out: &mut Signals);
    /// A reading or a tick passed.
    fn fact(&mut self, fact: &Fact, context: &mut Context, out: &mut Signals);
    /// Appends what was learnt.
    fn save(&self, to: &mut Saver<'_>);
    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError>;
}

/// All detectors of this build.
#[derive(Debug)]
pub struct Detectors {
    crash: crash::Crash,
    disk: disk::Disk,
    retransmit: retransmit::Retransmit,
    network: network::Network,
}

impl Detectors {
    /// From the thresholds of the configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            crash: crash::Crash::new(config),
            disk: disk::Disk::new(&config.detect.disk_latency),
            retransmit: retransmit::Retransmit::new(&config.detect.retransmit_storm),
            network: network::Network::new(&config.detect),
        }
    }

    fn all(&mut self) -> [&mut dyn Detector; 3] {
        [&mut self.crash, &mut self.disk, &mut self.retransmit]
    }

    /// Appends what every detector learnt.
    pub fn save(&self, to: &mut Saver<'_>) {
        let all: [&dyn Detector; 3] = [&self.crash, &self.disk, &self.retransmit];
        all.into_iter().for_each(|detector| detector.save(to));
        self.network.save(to);
    }

    /// Takes what [`Self::save`] wrote.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub fn load(&mut self, from: &mut Loader<'_>) -> Result<(), SnapshotError> {
        self.all().into_iter().try_for_each(|detector| detector.load(from))?;
        self.network.load(from)
    }

    /// Hands an event to the detector of its sensor.
    pub fn observe(&mut self, event: &Event, context: &mut Context, out: &mut Signals) {
        match event {
            Event::ProcessExit(_) => self.crash.observe(event, context, out),
            Event::OomKill(kill) => self.oom_kill(kill, context, out),
            Event::BlockIo(_) => self.disk.observe(event, context, out),
            Event::TcpRetransmit(_) => self.retransmit.observe(event, context, out),
            Event::TaskHang(hang) => hang::observe(hang, out),
            Event::TcpConnect(connect) => self.network.connect(connect, out),
            Event::TcpReset(reset) => self.network.reset(reset, out),
            Event::PacketDrop(drop) => self.network.drop(drop, out),
        }
    }

    /// Hands a fact to every detector.
    pub fn fact(&mut self, fact: &Fact, context: &mut Context, out: &mut Signals) {
        self.all().into_iter().for_each(|detector| detector.fact(fact, context, out));
        match fact {
            Fact::DropReasons(reasons) => self.network.learn_reasons(reasons),
            Fact::KernelLog(report) => kernel_log::observe(report, out),
            Fact::Tick { now_ns } => self.network.tick(*now_ns),
            _ => {}
        }
    }
}

impl Detectors {
    fn oom_kill(&mut self, kill: &OomKill, context: &mut Context, out: &mut Signals) {
        let first = out.len();
        oom_kill(kill, context, out);
        if let Some((entity, died_ns)) = context.victims.died_before(kill.victim_pid, kill.header.ktime_ns) {
            self.crash.forgive(&entity, died_ns);
            out[first..].iter_mut().for_each(|signal| signal.evidence.set("victim_exited", Value::Flag(true)));
        }
    }
}

/// `oom_kill`: every kill is a fault at once, of the victim's cgroup where the kernel told it.
fn oom_kill(kill: &OomKill, context: &mut Context, out: &mut Signals) {
    let knows_comm = event::has(&kill.header, const { OomKill::bit("victim_comm") });
    let entity = match kill.header.cgroup_id {
        0 if knows_comm => Entity::Executable(kill.victim_comm),
        0 => Entity::Process(kill.victim_pid),
        id => Entity::Cgroup(Tree::Memory, id),
    };
    context.victims.mark(kill.victim_pid, entity, kill.header.ktime_ns);
    let mut evidence = Evidence::EMPTY;
    if event::has(&kill.header, const { OomKill::bit("victim_pid") }) {
        evidence = evidence.number("victim_pid", kill.victim_pid.into());
    }
    evidence = evidence.number("trigger_pid", kill.trigger_pid.into()).comm("trigger_comm", kill.trigger_comm);
    let mut confidence = 1000;
    if knows_comm {
        evidence = evidence.comm("victim_comm", kill.victim_comm);
    } else {
        confidence -= 50;
    }
    if event::has(&kill.header, const { OomKill::bit("anon_kb") }) {
        evidence = evidence.number("anon_kb", kill.anon_kb);
    } else {
        confidence -= 50;
    }
    out.push(Signal {
        kind: Kind::OomKill,
        entity,
        severity: Severity::Error,
        confidence,
        evidence,
        cause_ns: Some(kill.header.ktime_ns),
        joins: false,
    });
}
