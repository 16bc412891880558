//! Loader: the object and this kernel in, attached sensors with their health out.
//!
//! Every program loads and attaches alone; one failing never stops the others. How the maps come about is
//! told in `create`.

use std::{collections::BTreeMap, fs, os::fd::AsFd};

use aya::{
    Ebpf, EbpfError,
    maps::{Map, MapData, RingBuf},
    programs::{Program, ProgramError, ProgramFd},
};
use faultline_common::{
    event::Field,
    offsets::{ABSENT, Offsets},
    sensor::SENSORS as COUNT,
    tunable::Tunables,
};
use thiserror::Error;

use super::{
    HookKind, ProgramSpec, Rung, SENSORS, SensorSpec,
    create::{self, arrays, data, ring},
    health::{self, Health},
    resolve,
};
use crate::{
    config::Config,
    kernel::{Btf, KernelFacts, Root, drops},
    model::input::DropReason,
    source::mapped::MappedArray,
};

/// What may be asked of the loader besides the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sensor word to the only rung that may be tried.
    pub hooks: BTreeMap<String, String>,
    /// Offsets to treat as absent although this kernel has them.
    pub without: Vec<String>,
    /// Whether programs write log records.
    pub debug: bool,
}

/// Why nothing could be loaded at all.
#[derive(Debug, Error)]
pub enum LoadError {
    /// bpf(2) is refused.
    #[error("the kernel refused bpf() for map {map}: {source}; run as root or grant CAP_BPF and CAP_PERFMON{hint}")]
    Refused {
        /// The first map it was refused for.
        map: String,
        /// What the kernel said.
        source: std::io::Error,
        /// Capabilities that are missing.
        hint: String,
    },
    /// A map cannot be created even at its smallest.
    #[error(
        "map {map} cannot be created even with {entries} entries: {source}; free memory, or lower rings.* in the configuration"
    )]
    Map {
        /// The map.
        map: String,
        /// Entries (bytes for a ring) tried last.
        entries: u32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The object itself is no good for this kernel.
    #[error(
        "the BPF object cannot be loaded on kernel {release}: {source}; `faultline doctor` says what this kernel offers"
    )]
    Object {
        /// Kernel release.
        release: String,
        /// What aya said.
        source: Box<EbpfError>,
    },
    /// A map is not in the object, or not of its type.
    #[error(
        "map {map} is missing from the object or of another type: the agent and its object do not belong together; rebuild both with `cargo xtask run`"
    )]
    Drift {
        /// The map.
        map: &'static str,
    },
    /// A mapped array cannot be mapped.
    #[error("map {map} cannot be mapped into memory: {source}; raise the memory limit of the agent's unit")]
    Mmap {
        /// The map.
        map: &'static str,
        /// What mmap(2) said.
        source: nix::Error,
    },
    /// The number of CPUs is unknown.
    #[error(
        "the number of possible CPUs is unknown ({path} cannot be read), so per-CPU arrays cannot be sized; mount sysfs at /sys"
    )]
    Cpus {
        /// The file.
        path: &'static str,
    },
}

/// Mapped arrays, shared by the reactor and the sampler.
#[derive(Debug)]
pub struct Arrays {
    /// `CounterSlice` per possible CPU.
    pub counters: MappedArray,
    /// Histogram `Row`s.
    pub hist: MappedArray,
    /// Device table.
    pub devices: MappedArray,
    /// Tunables.
    pub tunables: MappedArray,
    /// Possible CPUs.
    pub cpus: usize,
}

/// An attached program's link; dropping it detaches.
enum Link {
    Btf(#[expect(dead_code, reason = "held for its Drop")] aya::programs::tp_btf::BtfTracePointLink),
    Raw(#[expect(dead_code, reason = "held for its Drop")] aya::programs::raw_trace_point::RawTracePointLink),
    Perf(#[expect(dead_code, reason = "held for its Drop")] aya::programs::trace_point::TracePointLink),
}

/// Everything that lives in the kernel on the agent's behalf.
pub struct Loaded {
    /// Health by sensor number.
    pub health: [Health; COUNT],
    /// Offsets the programs run with.
    pub offsets: Offsets,
    /// Ring of faults; taken by the source.
    pub critical: Option<RingBuf<MapData>>,
    /// Ring of floods; taken by the source.
    pub bulk: Option<RingBuf<MapData>>,
    /// Mapped arrays; taken by the source and the sampler.
    pub arrays: std::sync::Arc<Arrays>,
    /// Kernel memory of each map, bytes; 0 where the kernel does not tell.
    pub map_bytes: Vec<(String, u64)>,
    /// What had to be changed to load at all.
    pub notes: Vec<String>,
    /// What this kernel calls its reasons to drop a packet.
    pub drop_reasons: Vec<DropReason>,
    /// Program descriptors by sensor number and name.
    pub programs: Vec<(u16, &'static str, ProgramFd)>,
    links: Vec<Link>,
    ebpf: Ebpf,
}

impl Loaded {
    /// Detaches all programs; in-flight runs may still be under way until a `membarrier`.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// The object, for the log bridge.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Loads the object and attaches what the configuration wants and this kernel offers.
///
/// # Errors
/// [`LoadError`] when nothing at all can be loaded; single sensors that fail are in `health`.
pub fn load(facts: &KernelFacts, config: &Config, options: &Options) -> Result<Loaded, LoadError> {
    let cpus = facts.possible_cpus;
    if cpus == 0 {
        return Err(LoadError::Cpus { path: "/sys/devices/system/cpu/possible" });
    }
    let btf = Btf::load(&Root::live());
    let mut offsets = resolve::resolve(facts, btf.as_ref().ok(), config.rings.critical_bytes);
    for name in &options.without {
        if let Some(place) = offsets.get_mut(name) {
            *place = ABSENT;
        }
    }
    let drop_reasons = btf.as_ref().map(drops::reasons).unwrap_or_default();
    let no_btf = btf.err().map(|e| e.to_string());
    let typed_btf = if no_btf.is_none() { aya::Btf::from_sys_fs().ok() } else { None };
    let mut created = create::create(facts, config, options, &offsets)?;
    // Before the first program runs: a limit of 0 would refuse everything.
    let arrays = arrays(&mut created, cpus as usize, facts.page_size as usize)?;
    store_tunables(&arrays.tunables, &Tunables { benign_drops: drops::benign(&drop_reasons), ..config.limits });
    let mut attacher = Attacher {
        ebpf: &mut created.ebpf,
        offsets: &offsets,
        btf: typed_btf.as_ref(),
        no_btf: no_btf.as_deref(),
        links: Vec::new(),
        programs: Vec::new(),
    };
    let health = std::array::from_fn(|n| match created.broken.get(&(n as u16)) {
        Some(error) => Health::Broken { error: error.clone(), verifier_log: None },
        None if !config.sensors[n] => {
            Health::Unsupported { why: format!("switched off: sensors.{} = false", SENSORS[n].name) }
        }
        None => attacher.attach(SENSORS[n], options.hooks.get(SENSORS[n].name).map(String::as_str)),
    });
    let (links, programs) = (attacher.links, attacher.programs);
    let bytes = |(name, map): (&str, &Map)| (name.to_owned(), memlock(map).unwrap_or(0));
    let map_bytes = created.ebpf.maps().map(bytes).collect();
    Ok(Loaded {
        health,
        offsets,
        critical: Some(ring(&mut created.ebpf, "CRITICAL")?),
        bulk: Some(ring(&mut created.ebpf, "BULK")?),
        arrays: std::sync::Arc::new(arrays),
        map_bytes,
        notes: created.notes,
        drop_reasons,
        programs,
        links,
        ebpf: created.ebpf,
    })
}

struct Attacher<'a> {
    ebpf: &'a mut Ebpf,
    offsets: &'a Offsets,
    btf: Option<&'a aya::Btf>,
    no_btf: Option<&'a str>,
    links: Vec<Link>,
    programs: Vec<(u16, &'static str, ProgramFd)>,
}

impl Attacher<'_> {
    /// Climbs the sensor's ladder; the first rung that this kernel takes wins.
    fn attach(&mut self, spec: &SensorSpec, only: Option<&str>) -> Health {
        let mut why = Vec::new();
        let mut broken = None;
        for rung in spec.rungs.iter().filter(|r| only.is_none_or(|o| o == r.kind.name())) {
            let unmet = health::unmet(rung, self.offsets);
            if !unmet.is_empty() {
                why.push(format!("{}: {}", rung.kind.name(), self.explain(&unmet)));
                continue;
            }
            match self.rung(spec, rung) {
                Ok(()) => return health::attached(rung, self.offsets),
                Err((error, log)) => {
                    tracing::warn!(sensor = spec.name, rung = rung.kind.name(), "{error}");
                    tracing::debug!("{}", log.as_deref().unwrap_or("no verifier log"));
                    why.push(format!("{}: {error}", rung.kind.name()));
                    broken = Some(log);
                }
            }
        }
        if why.is_empty() {
            why.push(format!("no such rung; {} has {}", spec.name, rung_names(spec)));
        }
        match broken {
            Some(verifier_log) => Health::Broken { error: why.join("; "), verifier_log },
            None => Health::Unsupported { why: why.join("; ") },
        }
    }

    fn explain(&self, unmet: &[&str]) -> String {
        let fields = unmet.join(", ");
        match self.no_btf {
            Some(error) if !unmet[0].starts_with("tp_") => format!("needs BTF for {fields}: {error}"),
            _ if unmet[0].starts_with("tp_") => format!("needs {fields} from tracefs; mount it at /sys/kernel/tracing"),
            _ => format!("this kernel does not tell {fields}"),
        }
    }

    /// Loads and attaches all programs of a rung, or none.
    fn rung(&mut self, spec: &SensorSpec, rung: &Rung) -> Result<(), (String, Option<String>)> {
        let mut links = Vec::new();
        let mut programs = Vec::new();
        for program in rung.programs {
            let (link, fd) = self.program(rung.kind, program).map_err(|e| explain_program(program.program, &e))?;
            links.push(link);
            programs.push((spec.number, program.program, fd));
        }
        self.links.append(&mut links);
        self.programs.append(&mut programs);
        Ok(())
    }

    fn program(&mut self, kind: HookKind, spec: &ProgramSpec) -> Result<(Link, ProgramFd), ProgramError> {
        let program = self.ebpf.program_mut(spec.program).ok_or(ProgramError::NotLoaded)?;
        let link = match (kind, &mut *program) {
            (HookKind::TpBtf, Program::BtfTracePoint(p)) => {
                let btf = self.btf.ok_or(ProgramError::NotLoaded)?;
                p.load(spec.point, btf)?;
                let id = p.attach()?;
                Link::Btf(p.take_link(id)?)
            }
            (HookKind::RawTp, Program::RawTracePoint(p)) => {
                p.load()?;
                let id = p.attach(spec.point)?;
                Link::Raw(p.take_link(id)?)
            }
            (HookKind::Tracepoint, Program::TracePoint(p)) => {
                p.load()?;
                let id = p.attach(spec.category, spec.point)?;
                Link::Perf(p.take_link(id)?)
            }
            _ => return Err(ProgramError::UnexpectedProgramType),
        };
        Ok((link, program.fd()?.try_clone().map_err(ProgramError::IOError)?))
    }
}

fn rung_names(spec: &SensorSpec) -> String {
    spec.rungs.iter().map(|r| r.kind.name()).collect::<Vec<_>>().join(", ")
}

fn explain_program(name: &str, error: &ProgramError) -> (String, Option<String>) {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            (format!("program {name} was refused: {io_error}"), Some(verifier_log.to_string()))
        }
        other => (format!("program {name}: {}", chain(other)), None),
    }
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Bytes that the kernel charges for a map: `memlock` of its fdinfo.
fn memlock(map: &Map) -> Option<u64> {
    fdinfo(data(map)?.fd().as_fd(), "memlock:")
}

/// One number of a descriptor's fdinfo.
pub fn fdinfo(fd: std::os::fd::BorrowedFd<'_>, key: &str) -> Option<u64> {
    use std::os::fd::AsRawFd;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

fn store_tunables(array: &MappedArray, t: &Tunables) {
    let single = [
        t.outlier_ns,
        t.exit_limit,
        t.block_limit,
        t.retransmit_limit,
        t.connect_slow_ns,
        t.peer_limit,
        t.drop_limit,
        t.reserved,
    ];
    for (index, value) in single.into_iter().chain(t.benign_drops).enumerate() {
        array.set(index, value);
    }
}

/// Names of fields, for the `missing` list of an event.
pub fn missing_names(fields: &[Field], missing: u64) -> Vec<&'static str> {
    let bit = |i: &usize| missing >> i & 1 == 1;
    (0..fields.len()).filter(bit).map(|i| fields[i].name).collect()
}
