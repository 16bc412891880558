//! The engine: `step(Input) -> Outputs`, a pure function of its state and the input.
//!
//! No clock (time is the running maximum of the time in the inputs), no I/O, no async, no randomness. So
//! `replay` gives the same faults as the live run, a policy can be judged on old recordings, and detectors
//! are tested and measured without a kernel. It allocates only while it is being built.
#![forbid(unsafe_code)]

mod loss;

use faultline_common::sensor::{
    BLOCK_IO, OOM_KILL, PACKET_DROP, PROCESS_EXIT, TASK_HANG, TCP_CONNECT, TCP_RESET, TCP_RETRANSMIT,
};

use crate::{
    attribution::units::Units,
    classify::life_cycle::LifeCycle,
    config::Config,
    correlate::OomVictims,
    decide::{Decided, Decider},
    detect::{Context, Detectors, Signals},
    model::{
        bounded::BoundedMap,
        entity::Tree,
        event::Event,
        fault::{Fault, Kind, State},
        input::{CounterReading, Fact, Input},
        output::{Loss, LossReason, Output},
        snapshot::{Loader, Saver, SnapshotError},
    },
};
use loss::Ledger;

/// What one step may say at most without growing its buffer: a fault table that closes at once.
pub const OUTPUTS: usize = 2 * crate::classify::life_cycle::ALIVE + 64;
/// Ids without a name that were asked for lately.
const ASKED: usize = 1024;

/// Everything faultline knows about the node.
#[derive(Debug)]
pub struct Engine {
    now_ns: u64,
    context: Context,
    detectors: Detectors,
    life: LifeCycle,
    ledger: Ledger,
    decider: Decider,
    signals: Signals,
    asked: BoundedMap<(Tree, u64), ()>,
}

impl Engine {
    /// A fresh engine.
    pub fn new(config: &Config) -> Self {
        Self {
            now_ns: 0,
            context: Context {
                units: Units::new(&config.watch.units),
                victims: OomVictims::default(),
                own_doing: false,
            },
            detectors: Detectors::new(config),
            life: LifeCycle::new(&config.faults),
            ledger: Ledger::default(),
            decider: Decider::new(config),
            signals: Vec::with_capacity(crate::detect::MAX_SIGNALS),
            asked: BoundedMap::with_capacity(ASKED),
        }
    }

    /// Writes the whole state into `buffer`: an engine that loads it goes on exactly like this one. Bytes used, or
    /// `None` when the buffer is too small.
    pub fn save(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut to = Saver::new(buffer);
        to.put(&self.now_ns);
        self.context.units.save(&mut to);
        self.context.victims.save(&mut to);
        self.detectors.save(&mut to);
        self.life.save(&mut to);
        self.ledger.save(&mut to);
        to.put(&self.asked);
        self.decider.save(&mut to);
        to.finish()
    }

    /// Takes the state that [`Self::save`] wrote; what was decided only where the policy is the same.
    ///
    /// # Errors
    /// The snapshot is damaged or of another build; the engine is then good for nothing.
    pub fn load(&mut self, snapshot: &[u8], same_policy: bool) -> Result<(), SnapshotError> {
        let mut from = Loader::new(snapshot)?;
        self.now_ns = from.take()?;
        self.context.units.load(&mut from)?;
        self.context.victims.load(&mut from)?;
        self.detectors.load(&mut from)?;
        self.life.load(&mut from)?;
        self.ledger.load(&mut from)?;
        self.asked = from.take()?;
        if same_policy { self.decider.load(&mut from) } else { Ok(()) }
    }

    /// Takes one input in and appends what follows from it to `out`.
    pub fn step(&mut self, input: &Input, out: &mut Vec<Output>) {
        match input {
            Input::Event(event) => self.event(event, out),
            Input::Malformed { sensor } => self.ledger.malformed(*sensor, self.now_ns, out),
            Input::Fact(fact) => self.fact(fact, out),
        }
    }

    /// Engine time, ns: the latest time any input carried.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Faults opened so far.
    pub fn opened(&self) -> u64 {
        self.life.opened()
    }

    /// The latest kernel-side counters.
    pub fn counters(&self) -> Option<&CounterReading> {
        self.ledger.latest()
    }

    /// Faults that are open or clearing.
    pub fn alive(&self) -> usize {
        self.life.alive()
    }

    fn event(&mut self, event: &Event, out: &mut Vec<Output>) {
        self.now_ns = self.now_ns.max(event.header().ktime_ns);
        self.ask_for_names(event, out);
        out.push(Output::Event(*event));
        self.context.own_doing = matches!(event, Event::ProcessExit(e) if self.decider.caused(e));
        self.detectors.observe(event, &mut self.context, &mut self.signals);
        self.flush(out);
    }

    fn fact(&mut self, fact: &Fact, out: &mut Vec<Output>) {
        match fact {
            Fact::Tick { now_ns } => self.now_ns = self.now_ns.max(*now_ns),
            Fact::Stopping { now_ns } => {
                self.now_ns = self.now_ns.max(*now_ns);
                self.decider.stop(self.now_ns, &mut |decided| out.push(decided.into()));
            }
            Fact::Disk(reading) => self.now_ns = self.now_ns.max(reading.now_ns),
            Fact::Counters(reading) => {
                self.now_ns = self.now_ns.max(reading.now_ns);
                self.ledger.counters(reading, out);
            }
            Fact::Cgroups(names) => {
                names.iter().for_each(|name| {
                    self.context.units.learn(name);
                    self.decider.learn_cgroup(name);
                });
                out.push(Output::Cgroups(names.clone()));
            }
            Fact::Gone(names) => names.iter().for_each(|name| self.decider.forget_cgroup(name)),
            Fact::Devices(names) => out.push(Output::Devices(names.clone())),
            Fact::DropReasons(names) => out.push(Output::DropReasons(names.clone())),
            Fact::KernelLog(report) => self.now_ns = self.now_ns.max(report.now_ns),
            Fact::LogLost { now_ns, count } => {
                self.now_ns = self.now_ns.max(*now_ns);
                out.push(Output::Loss(Loss {
                    sensor: None,
                    count: *count,
                    reason: LossReason::LogOverwritten,
                    from_ns: *now_ns,
                    to_ns: *now_ns,
                }));
            }
            Fact::HangCheck { every_ns } => self.life.hangs_are_told_every(*every_ns),
            Fact::Own(paths) => self.decider.learn_own(paths),
            Fact::Done(done) => {
                self.now_ns = self.now_ns.max(done.finished_ns);
                self.decider.done(done, self.now_ns, &mut |decided| out.push(decided.into()));
            }
            Fact::Verified(verified) => {
                self.now_ns = self.now_ns.max(verified.now_ns);
                self.decider.verified(verified, self.now_ns, &mut |decided| out.push(decided.into()));
            }
        }
        self.detectors.fact(fact, &mut self.context, &mut self.signals);
        self.flush(out);
        if let Fact::Tick { now_ns } = fact {
            let said = out.len();
            self.life.tick(*now_ns, &mut |fault| out.push(Output::Fault(fault)));
            tell_quiet(&mut self.decider, self.now_ns, said, out);
            self.decider.tick(self.now_ns, &mut |decided| out.push(decided.into()));
        }
    }

    /// Turns the step's signals into faults.
    fn flush(&mut self, out: &mut Vec<Output>) {
        for signal in self.signals.drain(..) {
            let lossy = sensor_of(signal.kind).is_some_and(|sensor| self.ledger.is_lossy(sensor, self.now_ns));
            let said = out.len();
            self.life.signal(&signal, self.now_ns, lossy, &mut |fault| out.push(Output::Fault(fault)));
            if !signal.joins
                && let Some(fault) = self.life.living(signal.kind, signal.entity)
            {
                let heard = Fault { at_ns: self.now_ns, cause_ns: signal.cause_ns, ..*fault };
                self.decider.signal(&heard, self.now_ns, &mut |decided| out.push(decided.into()));
            }
            tell_quiet(&mut self.decider, self.now_ns, said, out);
        }
    }

    /// Says once that a cgroup of an event has no name yet.
    fn ask_for_names(&mut self, event: &Event, out: &mut Vec<Output>) {
        match event {
            Event::ProcessExit(e) => {
                self.ask_for_name(Tree::Process, e.header.cgroup_id, out);
                self.ask_for_name(Tree::Process, e.parent_cgroup_id, out);
            }
            Event::OomKill(e) => self.ask_for_name(Tree::Memory, e.header.cgroup_id, out),
            Event::TaskHang(_) | Event::TcpRetransmit(_) | Event::TcpConnect(_) | Event::TcpReset(_) => {
                self.ask_for_name(Tree::Process, event.header().cgroup_id, out);
            }
            Event::BlockIo(_) | Event::PacketDrop(_) => {}
        }
    }

    fn ask_for_name(&mut self, tree: Tree, id: u64, out: &mut Vec<Output>) {
        if id == 0 || self.context.units.knows(tree, id) || self.asked.peek(&(tree, id)).is_some() {
            return;
        }
        let _ = self.asked.insert_or_evict((tree, id), ());
        out.push(Output::Unresolved { id });
    }
}

/// Tells the decider which faults stopped standing, of those said since `said`.
fn tell_quiet(decider: &mut Decider, now_ns: u64, said: usize, out: &mut Vec<Output>) {
    for index in said..out.len() {
        if let Output::Fault(fault) = out[index]
            && fault.state != State::Open
        {
            decider.quiet(&fault, now_ns, &mut |decided| out.push(decided.into()));
        }
    }
}

impl From<Decided> for Output {
    fn from(decided: Decided) -> Self {
        match decided {
            Decided::Act(request) => Self::Act(request),
            Decided::Line(action) => Self::Action(action),
        }
    }
}

/// The sensor whose losses make a verdict of this kind less sure; the kernel's log is none of them.
fn sensor_of(kind: Kind) -> Option<u16> {
    Some(match kind {
        Kind::ProcessCrash | Kind::CrashLoop => PROCESS_EXIT,
        Kind::OomKill => OOM_KILL,
        Kind::DiskLatency | Kind::DiskError => BLOCK_IO,
        Kind::RetransmitStorm => TCP_RETRANSMIT,
        Kind::TaskHang => TASK_HANG,
        Kind::ConnectFailure => TCP_CONNECT,
        Kind::ConnectionReset => TCP_RESET,
        Kind::BadChecksum => PACKET_DROP,
        Kind::KernelLog => return None,
    })
}

#[cfg(test)]
mod tests;
