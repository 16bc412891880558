//! Live: the two rings, facts from the tasks and the passing of time in, one numbered stream of inputs out.
//!
//! One thread owns it. The critical ring is emptied before the bulk ring is looked at. When both are empty it
//! spins for a short time and then sleeps in `epoll` over both rings and the doorbell, at most until the next
//! tick. It never touches `/proc`, never takes a lock and does not allocate.

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aya::maps::{MapData, RingBuf};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    EventSource, Taken,
    queue::{Doorbell, Promises},
    recorder::{LastGap, Tee},
};
use crate::{clock, config::Spin, decode::MAX_FRAME, model::input::Fact};

/// Answers that have room without an allocation.
const ANSWERS: usize = 64;
/// Time between ticks, ns.
const TICK_NS: u64 = 250_000_000;

/// What the reactor thread and its owner share.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    drain_until_ns: AtomicU64,
    /// Times the source went to sleep, for `bench`.
    pub sleeps: AtomicU64,
}

impl Control {
    /// The programs are detached: drain and end, at this time (CLOCK_MONOTONIC ns) even if there is more.
    pub fn stop_by(&self, drain_until_ns: u64) {
        self.drain_until_ns.store(drain_until_ns, Ordering::Relaxed);
        self.stop.store(true, Ordering::Release);
    }
}

/// Where the last facts come from once the rings are empty.
pub type LastFacts = Box<dyn FnMut() -> Option<Fact> + Send>;

/// The rings as a source.
pub struct Live {
    critical: RingBuf<MapData>,
    bulk: RingBuf<MapData>,
    facts: rtrb::Consumer<Fact>,
    /// Facts that waited before the first frame was looked for (names of cgroups and devices): they go first, so that
    /// an event of the first millisecond has its names, too.
    known_at_start: usize,
    bell: Arc<Doorbell>,
    epoll: Epoll,
    control: Arc<Control>,
    spin: Spin,
    tee: Option<Tee>,
    flight: Option<FlightTee>,
    last_facts: LastFacts,
    promises: Promises,
    /// Answers of the hands on this thread; one step rarely asks for more than one.
    answers: VecDeque<Fact>,
    state: State,
    seq: u64,
    now_ns: u64,
    next_tick_ns: u64,
    idle_since_ns: Option<u64>,
    frame: [u8; MAX_FRAME],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    Draining { until_ns: u64 },
    LastFacts,
    Ended,
}

/// The flight recorder's half in the reactor.
pub struct FlightTee {
    tee: Tee,
    buffer: Vec<u8>,
    every_ns: u64,
    next_ns: u64,
}

impl FlightTee {
    /// With a buffer for snapshots, one every so many ns.
    pub fn new(tee: Tee, buffer: Vec<u8>, every_ns: u64) -> Self {
        Self { tee, buffer, every_ns, next_ns: 0 }
    }
}

/// Everything a live source is made of.
pub struct Parts {
    /// Ring of faults.
    pub critical: RingBuf<MapData>,
    /// Ring of floods.
    pub bulk: RingBuf<MapData>,
    /// Facts from the tasks.
    pub facts: rtrb::Consumer<Fact>,
    /// Rung with each fact and at the stop.
    pub bell: Arc<Doorbell>,
    /// Shared with the owner.
    pub control: Arc<Control>,
    /// How to wait.
    pub spin: Spin,
    /// Copies every input.
    pub tee: Option<Tee>,
    /// Copies every input for the flight recorder, too.
    pub flight: Option<FlightTee>,
    /// Asked when the rings are empty for good, until it has no more.
    pub last_facts: LastFacts,
    /// Answers to wait for before the end.
    pub promises: Promises,
}

impl Live {
    /// Puts the parts together.
    ///
    /// # Errors
    /// What epoll(7) says.
    pub fn new(parts: Parts) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(parts.critical.as_fd(), readable(0))?;
        epoll.add(parts.bulk.as_fd(), readable(1))?;
        epoll.add(parts.bell.as_fd(), readable(2))?;
        let now_ns = clock::monotonic_ns();
        Ok(Self {
            known_at_start: parts.facts.slots(),
            critical: parts.critical,
            bulk: parts.bulk,
            facts: parts.facts,
            bell: parts.bell,
            epoll,
            control: parts.control,
            spin: parts.spin,
            tee: parts.tee,
            flight: parts.flight,
            last_facts: parts.last_facts,
            promises: parts.promises,
            answers: VecDeque::with_capacity(ANSWERS),
            state: State::Running,
            seq: 0,
            now_ns,
            next_tick_ns: now_ns + TICK_NS,
            idle_since_ns: None,
            frame: [0; MAX_FRAME],
        })
    }

    /// Inputs that the recording still lacks, to be written behind everything else.
    pub fn last_gap(&self) -> Option<LastGap> {
        self.tee.as_ref().and_then(Tee::last_gap)
    }

    fn tees(&mut self) -> impl Iterator<Item = &mut Tee> {
        self.tee.iter_mut().chain(self.flight.iter_mut().map(|flight| &mut flight.tee))
    }

    /// Numbers a fact and hands it over.
    fn hand(&mut self, fact: Fact) -> Taken<'static> {
        self.seq += 1;
        let (seq, now_ns) = (self.seq, self.now_ns);
        self.tees().for_each(|tee| tee.fact(seq, now_ns, &fact));
        Taken::Fact(fact)
    }

    /// Numbers the frame in the buffer and hands it over.
    fn hand_frame(&mut self, len: usize) -> Taken<'_> {
        self.seq += 1;
        self.idle_since_ns = None;
        let frame = &self.frame[..len];
        // Every record starts with its time; a frame too short for that is malformed and has none.
        if let Some(ktime) = frame.get(..8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes) {
            self.now_ns = self.now_ns.max(ktime);
        }
        for tee in self.tee.iter_mut().chain(self.flight.iter_mut().map(|flight| &mut flight.tee)) {
            tee.frame(self.seq, self.now_ns, frame);
        }
        Taken::Frame(frame)
    }

    fn tick(&mut self) -> Taken<'static> {
        self.next_tick_ns = self.now_ns + TICK_NS;
        self.hand(Fact::Tick { now_ns: self.now_ns })
    }

    /// Both rings are empty: go on draining, spin, or sleep.
    fn idle(&mut self) {
        self.now_ns = self.now_ns.max(clock::monotonic_ns());
        if self.state != State::Running || self.now_ns >= self.next_tick_ns {
            return;
        }
        let since = *self.idle_since_ns.get_or_insert(self.now_ns);
        match self.spin {
            Spin::Always => {}
            Spin::Adaptive(spin_ns) if self.now_ns - since < spin_ns => std::hint::spin_loop(),
            _ => self.sleep(),
        }
    }

    fn sleep(&mut self) {
        self.control.sleeps.fetch_add(1, Ordering::Relaxed);
        let left_ms = (self.next_tick_ns - self.now_ns).div_ceil(1_000_000).min(60_000);
        let timeout = EpollTimeout::from(left_ms as u16);
        let mut events = [EpollEvent::empty(); 4];
        // EINTR and a timeout are the same to us: look at the rings again.
        let ready = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        if events[..ready].iter().any(|e| e.data() == 2) {
            self.bell.clear();
        }
    }

    /// The rings are empty for good. What the hands are still at is waited for, as long as there is time.
    fn wait_for_answers(&mut self, until_ns: u64) {
        self.now_ns = self.now_ns.max(clock::monotonic_ns());
        // In this order: a promise is kept only after its answer is in the queue.
        if !self.promises.are_open() && self.facts.is_empty() || self.now_ns >= until_ns {
            self.state = State::LastFacts;
        } else if self.facts.is_empty() && self.now_ns < self.next_tick_ns {
            self.sleep();
        }
    }

    fn begin_drain(&mut self) -> Taken<'static> {
        self.now_ns = self.now_ns.max(clock::monotonic_ns());
        self.state = State::Draining { until_ns: self.control.drain_until_ns.load(Ordering::Relaxed) };
        self.hand(Fact::Stopping { now_ns: self.now_ns })
    }
}

/// Copies the next frame of a ring into the buffer; its length, cut to the buffer's.
fn take(ring: &mut RingBuf<MapData>, buffer: &mut [u8; MAX_FRAME]) -> Option<usize> {
    let item = ring.next()?;
    let len = item.len().min(MAX_FRAME);
    buffer[..len].copy_from_slice(&item[..len]);
    Some(len)
}

impl EventSource for Live {
    fn next(&mut self) -> Taken<'_> {
        loop {
            if let Some(fact) = self.answers.pop_front() {
                return self.hand(fact);
            }
            match self.state {
                State::Running if self.control.stop.load(Ordering::Acquire) => return self.begin_drain(),
                State::Running | State::Draining { .. } if self.now_ns >= self.next_tick_ns => return self.tick(),
                State::Running => {}
                State::Draining { until_ns } => {
                    if self.seq.is_multiple_of(64) && clock::monotonic_ns() > until_ns {
                        self.state = State::LastFacts;
                    }
                }
                State::LastFacts => match (self.last_facts)() {
                    Some(fact) => return self.hand(fact),
                    None => self.state = State::Ended,
                },
                State::Ended => return Taken::End,
            }
            if self.state == State::LastFacts || self.state == State::Ended {
                continue;
            }
            if self.known_at_start > 0
                && let Ok(fact) = self.facts.pop()
            {
                self.known_at_start -= 1;
                return self.hand(fact);
            }
            if let Some(len) = take(&mut self.critical, &mut self.frame) {
                return self.hand_frame(len);
            }
            if let Ok(fact) = self.facts.pop() {
                return self.hand(fact);
            }
            if let Some(len) = take(&mut self.bulk, &mut self.frame) {
                return self.hand_frame(len);
            }
            match self.state {
                State::Draining { until_ns } => self.wait_for_answers(until_ns),
                _ => self.idle(),
            }
        }
    }

    fn decided(&mut self) -> Option<u64> {
        let now = clock::monotonic_ns();
        let seq = self.seq;
        self.tees().for_each(|tee| tee.decided(seq, now));
        Some(now)
    }

    fn answer(&mut self, fact: Fact) {
        self.answers.push_back(fact);
    }

    fn mark(&mut self, save: &mut dyn FnMut(&mut [u8]) -> Option<usize>) {
        let Some(flight) = self.flight.as_mut().filter(|flight| self.now_ns >= flight.next_ns) else { return };
        flight.next_ns = self.now_ns + flight.every_ns;
        if let Some(used) = save(&mut flight.buffer) {
            flight.tee.snapshot(self.seq, self.now_ns, &flight.buffer[..used]);
        }
    }
}
