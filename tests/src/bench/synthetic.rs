//! A recording that never happened, as busy nodes look. In: a number of events. Out: a recording file by the real
//! writer, and what is in it.
//!
//! All four sensors; peers, devices, executables, services and memory cgroups by the hundreds, a few of them much busier
//! than the rest; names, ticks, disk readings and counters between the events as the agent's tasks send them. Two thirds of the
//! events are candidates that a detector must weigh; the rest (plain statuses of scripts, stops that were asked for,
//! answers that are no errors) passes the detectors' first question only.

use std::{collections::HashSet, path::Path, sync::Arc};

use anyhow::{Context, Result};
use faultline::{
    decode,
    model::input::{CgroupName, CounterReading, DeviceName, DiskReading, DropReason, Fact, TREE_MEMORY, TREE_PROCESS},
    sensor,
    source::recording::{
        ClockAnchor, FORMAT, FieldSpec, Header as FileHeader, RecordKind, RecordingWriter, SensorTable,
    },
};
use faultline_common::{
    counter::COUNTERS,
    event::{BlockIo, Header, OomKill, PacketDrop, ProcessExit, TaskHang, TcpConnect, TcpReset, TcpRetransmit},
    sensor::{
        BLOCK_IO, OOM_KILL, PACKET_DROP, PROCESS_EXIT, SENSORS, TASK_HANG, TCP_CONNECT, TCP_RESET, TCP_RETRANSMIT,
    },
};

use super::{consumer::comm, stats::Random};

/// What the engine is told: watched services and executables, as somebody would.
pub const CONFIG: &str = "[watch]\nunits = [\"service-0.service\", \"service-1.service\", \"service-2.service\"]\nexecutables = [\"worker-0\", \"worker-1\"]\n";

const PEERS: u64 = 1500;
const DEVICES: u64 = 48;
const EXECUTABLES: u64 = 400;
const SERVICES: u64 = 300;
const CAGES: u64 = 100;
/// Time between two events, ns: 50,000 events a second, a node in deep trouble.
const STEP_NS: u64 = 20_000;
const TICK_NS: u64 = 250_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// What the recording holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Frames.
    pub events: u64,
    /// Frames that reach a detector's state.
    pub candidates: u64,
    /// Different peers, devices, executables, services and cgroups.
    pub entities: usize,
    /// Frames by sensor number.
    pub by_sensor: [u64; SENSORS],
}

/// Writes `events` frames, and the facts between them, to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, events: u64) -> Result<Contents> {
    let writer = RecordingWriter::create(path, &header())?;
    let mut maker = Maker {
        writer,
        random: Random::new(1),
        seq: 0,
        now_ns: SECOND_NS,
        seen: HashSet::new(),
        contents: Contents::default(),
    };
    maker.names()?;
    for nth in 0..events {
        maker.now_ns += STEP_NS;
        maker.event()?;
        if (nth + 1).is_multiple_of(TICK_NS / STEP_NS) {
            maker.fact(&Fact::Tick { now_ns: maker.now_ns })?;
        }
        if (nth + 1).is_multiple_of(SECOND_NS / STEP_NS) {
            maker.readings()?;
        }
    }
    maker.writer.finish()?;
    maker.contents.events = events;
    maker.contents.entities = maker.seen.len();
    Ok(maker.contents)
}

/// The header that a session on some machine would write.
pub fn header() -> FileHeader {
    let table = |number: usize| {
        let (fields, size) = decode::layout(number as u16).unwrap_or((&[], 0));
        let field =
            |f: &faultline_common::event::Field| FieldSpec { name: f.name.into(), offset: f.offset, size: f.size };
        SensorTable {
            name: sensor::SENSORS[number].name.into(),
            id: number as u16,
            size: size as u32,
            hook: None,
            health: "ok".into(),
            missing: vec![],
            fields: fields.iter().map(field).collect(),
        }
    };
    FileHeader {
        format: FORMAT,
        faultline_version: env!("CARGO_PKG_VERSION").into(),
        kernel_release: "synthetic".into(),
        boot_id: String::new(),
        possible_cpus: 2,
        page_size: 4096,
        anchor: ClockAnchor::default(),
        mode: "observe".into(),
        config_toml: CONFIG.into(),
        sensors: (0..SENSORS).map(table).collect(),
        snapshot: Vec::new(),
    }
}

struct Maker {
    writer: RecordingWriter<std::fs::File>,
    random: Random,
    seq: u64,
    now_ns: u64,
    seen: HashSet<(u8, u64)>,
    contents: Contents,
}

impl Maker {
    fn fact(&mut self, fact: &Fact) -> Result<()> {
        self.seq += 1;
        let body = postcard::to_stdvec(fact).context("a fact as bytes")?;
        Ok(self.writer.append(RecordKind::Input, self.seq, &body)?)
    }

    fn frame(&mut self, sensor: u16, candidate: bool, bytes: &[u8]) -> Result<()> {
        self.seq += 1;
        self.contents.candidates += u64::from(candidate);
        self.contents.by_sensor[usize::from(sensor)] += 1;
        Ok(self.writer.append(RecordKind::Frame, self.seq, bytes)?)
    }

    fn names(&mut self) -> Result<()> {
        let service =
            |n| CgroupName { trees: TREE_PROCESS, id: 1000 + n, path: format!("/system.slice/service-{n}.service") };
        let cage = |n| CgroupName { trees: TREE_MEMORY, id: 5000 + n, path: format!("/pods/pod-{n}") };
        let cgroups: Vec<_> = (0..SERVICES).map(service).chain((0..CAGES).map(cage)).collect();
        let device = |n| DeviceName { dev: 8 << 20 | n as u32, name: format!("sd{n}") };
        let devices: Vec<_> = (0..DEVICES).map(device).collect();
        self.fact(&Fact::Cgroups(Arc::from(cgroups)))?;
        self.fact(&Fact::Devices(Arc::from(devices)))?;
        let checksum = DropReason { number: 5, name: "tcp_csum".into() };
        self.fact(&Fact::DropReasons(Arc::from([checksum])))
    }

    fn readings(&mut self) -> Result<()> {
        let now_ns = self.now_ns;
        for dev in 0..DEVICES as u32 {
            let p99_ns = 2_000_000 + self.random.below(1_000_000);
            let reading = DiskReading { now_ns, dev: 8 << 20 | dev, op_class: 0, count: 500, p50_ns: 200_000, p99_ns };
            self.fact(&Fact::Disk(reading))?;
        }
        let mut sums = [[0; COUNTERS]; SENSORS];
        sums[usize::from(TCP_RETRANSMIT)][faultline_common::counter::LIMITED] = self.now_ns / SECOND_NS / 10;
        self.fact(&Fact::Counters(CounterReading { now_ns, sums, missed: [Some(0); SENSORS] }))
    }

    /// A number below `limit` that is small more often than large: a few things are busy, many are not.
    fn skewed(&mut self, limit: u64) -> u64 {
        let a = self.random.below(limit);
        if self.random.below(3) == 0 { a } else { a * self.random.below(limit) / limit }
    }

    fn header<T>(&self, sensor: u16, cgroup_id: u64) -> Header {
        let cpu = (self.seq % 2) as u32;
        Header {
            ktime_ns: self.now_ns,
            cgroup_id,
            missing: 0,
            sensor,
            flags: 0,
            cpu,
            len: size_of::<T>() as u32,
            pad: 0,
        }
    }

    fn event(&mut self) -> Result<()> {
        match self.random.below(1000) {
            0..=399 => self.retransmit(),
            400..=649 => self.io(),
            650..=654 => self.oom(),
            655..=749 => self.connection(),
            750..=751 => self.hang(),
            _ => self.exit(),
        }
    }

    fn retransmit(&mut self) -> Result<()> {
        let peer = self.skewed(PEERS);
        self.seen.insert((0, peer));
        let sock = peer * 4 + self.random.below(4);
        let mut daddr = [0; 16];
        daddr[..4].copy_from_slice(&[10, 1, (peer >> 8) as u8, peer as u8]);
        let record = TcpRetransmit {
            header: self.header::<TcpRetransmit>(TCP_RETRANSMIT, 0),
            sock,
            saddr: [10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            daddr,
            segs_out: (self.seq * 50) as u32,
            total_retrans: self.seq as u32,
            netns: 1,
            family: 2,
            state: 1,
            sport: 40000,
            dport: 443,
            reserved: 0,
        };
        self.frame(TCP_RETRANSMIT, true, record.as_bytes())
    }

    /// A connect that failed, a reset, or a dropped packet of some peer.
    fn connection(&mut self) -> Result<()> {
        let peer = self.skewed(PEERS);
        self.seen.insert((0, peer));
        let (mut near, mut far) = ([0; 16], [0; 16]);
        near[..4].copy_from_slice(&[10, 0, 0, 1]);
        far[..4].copy_from_slice(&[10, 1, (peer >> 8) as u8, peer as u8]);
        let (sock, netns, family, sport, dport) = (peer, 1, 2, 40000, 443);
        match self.random.below(3) {
            0 => {
                let header = self.header::<TcpConnect>(TCP_CONNECT, 0);
                let (latency_ns, error, state) = (1_000_000, libc::ETIMEDOUT as u32, 2);
                let record = TcpConnect {
                    header,
                    sock,
                    latency_ns,
                    saddr: near,
                    daddr: far,
                    netns,
                    error,
                    family,
                    state,
                    sport,
                    dport,
                };
                self.frame(TCP_CONNECT, true, record.as_bytes())
            }
            1 => {
                let header = self.header::<TcpReset>(TCP_RESET, 0);
                let (sent, state) = (0, 1);
                let record =
                    TcpReset { header, sock, saddr: near, daddr: far, netns, sent, family, state, sport, dport };
                self.frame(TCP_RESET, true, record.as_bytes())
            }
            _ => {
                let header = self.header::<PacketDrop>(PACKET_DROP, 0);
                let record = PacketDrop {
                    header,
                    location: 1,
                    saddr: far,
                    daddr: near,
                    reason: 5,
                    ifindex: 2,
                    bytes: 60,
                    family,
                    protocol: 6,
                    sport: 443,
                    dport: 40000,
                    skipped: 0,
                };
                self.frame(PACKET_DROP, true, record.as_bytes())
            }
        }
    }

    fn hang(&mut self) -> Result<()> {
        let service = self.skewed(SERVICES);
        self.seen.insert((3, service));
        let pid = self.seq as u32;
        let header = self.header::<TaskHang>(TASK_HANG, 1000 + service);
        let record = TaskHang { header, start_ns: 1, pid, tgid: pid, uid: 0, reserved: 0, comm: comm("writer") };
        self.frame(TASK_HANG, true, record.as_bytes())
    }

    fn io(&mut self) -> Result<()> {
        let device = self.skewed(DEVICES);
        self.seen.insert((1, device));
        // EAGAIN is an answer, not an error; one I/O in a hundred fails.
        let error = match self.random.below(100) {
            0 => -libc::EIO,
            1..=9 => -libc::EAGAIN,
            _ => 0,
        };
        let record = BlockIo {
            header: self.header::<BlockIo>(BLOCK_IO, 0),
            latency_ns: 40_000_000 + self.random.below(100_000_000),
            sector: self.random.below(1 << 30),
            dev: 8 << 20 | device as u32,
            bytes: 4096,
            error,
            op: self.random.below(2) as u32,
        };
        self.frame(BLOCK_IO, error != -libc::EAGAIN, record.as_bytes())
    }

    fn oom(&mut self) -> Result<()> {
        let cage = self.skewed(CAGES);
        self.seen.insert((2, cage));
        let record = OomKill {
            header: self.header::<OomKill>(OOM_KILL, 5000 + cage),
            anon_kb: 500_000,
            file_kb: 100,
            shmem_kb: 0,
            total_vm_kb: 900_000,
            victim_pid: self.seq as u32,
            trigger_pid: self.seq as u32,
            uid: 0,
            reserved: 0,
            victim_comm: comm("hungry"),
            trigger_comm: comm("hungry"),
        };
        self.frame(OOM_KILL, true, record.as_bytes())
    }

    fn exit(&mut self) -> Result<()> {
        let what = self.random.below(100);
        let (cgroup_id, parent, name, code) = if what < 30 {
            let service = self.skewed(SERVICES);
            self.seen.insert((3, service));
            (1000 + service, 1, format!("service-{service}"), 256)
        } else {
            let executable = self.skewed(EXECUTABLES);
            self.seen.insert((4, executable));
            // Half are scripts with a status, a fifth is stopped by SIGTERM, the rest crashes or is killed.
            let code = match what {
                30..=64 => 256,
                65..=79 => 15,
                80..=89 => 0x8b,
                _ => 9,
            };
            (500, 500, format!("worker-{executable}"), code)
        };
        let record = ProcessExit {
            header: self.header::<ProcessExit>(PROCESS_EXIT, cgroup_id),
            start_ns: self.now_ns - 1000,
            parent_cgroup_id: parent,
            pid: self.seq as u32,
            ppid: 1,
            uid: 0,
            exit_code: code,
            comm: comm(&name),
        };
        let candidate = !(30..80).contains(&what);
        self.frame(PROCESS_EXIT, candidate, record.as_bytes())
    }
}
