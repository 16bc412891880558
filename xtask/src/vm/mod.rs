//! `cargo xtask vm`: one command on real Debian kernels. In: kernels and a command. Out: its output, live, and its exit status.
//!
//! Everything is fetched once into the cache; a boot then takes seconds. Nothing is installed and no root is needed.

mod cpio;
mod image;
mod kernel;
mod modules;
mod plan;
mod qemu;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use image::GuestFile;
pub use kernel::Kernel;
use plan::Plan;
use qemu::{Machine, Sink};

use crate::{build_ebpf, cache, cargo, process, ui, workspace};

/// Run a command on real Debian kernels in a VM, and pass its output and exit status on.
///
/// The guest is a RAM disk with a shell, iproute2, nftables, dmsetup, e2fsprogs, busybox, cgroup v2 and the fault-injection modules (loaded by
/// `modprobe NAME` or on demand). It holds every program of this workspace that is built in target/release, in its PATH; COMMAND is built first
/// if it is one of them. Disks appear as /dev/disk/slow and /dev/disk/plain.
///
/// Exit status: the first failing kernel's; 2 if a kernel gave no verdict (panic, hang) or the command outlived its time. Statuses above 123,
/// and death by a signal, become 123.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask vm --kernel 6.12 -- uname -r\n  cargo xtask vm --all -- faultline doctor\n  \
    cargo xtask vm --kernel 6.1 --slow-disk 50 -- sh -c 'dd if=/dev/disk/slow of=/dev/null bs=4k count=10 iflag=direct'"
)]
pub struct Args {
    /// A kernel: 5.10.218, 5.10.262, 6.1, 6.12, 6.18 or 7.3. May be given several times.
    #[arg(long, value_name = "VERSION", value_parser = kernel::find, required_unless_present = "all")]
    kernel: Vec<&'static Kernel>,
    /// All kernels, oldest first.
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// Memory of the guest in megabytes.
    #[arg(long, value_name = "MB", default_value_t = 384)]
    mem: u32,
    /// More kernel parameters.
    #[arg(long, value_name = "PARAMETERS", allow_hyphen_values = true)]
    append: Vec<String>,
    /// A file or folder for the guest; programs go to its PATH, everything else to /data.
    #[arg(long, value_name = "HOSTPATH[:GUESTPATH]")]
    file: Vec<GuestFile>,
    /// An environment variable for the command.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Copy what the command leaves in the guest's /out to this folder (with several kernels: one folder each below it).
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// End the command after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Add a disk of 1 GB whose every request takes this many milliseconds.
    #[arg(long, value_name = "MS")]
    slow_disk: Option<u32>,
    /// Add an empty disk of this many megabytes.
    #[arg(long, value_name = "MB")]
    disk: Option<u32>,
    /// Put systemd and a D-Bus daemon into the guest; nothing is started (tests start a private manager).
    #[arg(long)]
    systemd: bool,
    /// Put earlyoom into the guest; nothing is started.
    #[arg(long)]
    earlyoom: bool,
    /// What to run in the guest.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// One boot, as a value.
pub struct VmRequest {
    /// What to boot.
    pub kernel: &'static Kernel,
    /// Memory in megabytes.
    pub memory_mb: u32,
    /// More kernel parameters.
    pub append: Vec<String>,
    /// What to put into the guest.
    pub files: Vec<GuestFile>,
    /// Environment of the command.
    pub environment: Vec<(String, String)>,
    /// Where the content of the guest's `/out` goes.
    pub out: Option<PathBuf>,
    /// The command's time.
    pub timeout: Duration,
    /// A disk with this delay, in milliseconds.
    pub slow_disk_ms: Option<u32>,
    /// An empty disk of this size, in megabytes.
    pub disk_mb: Option<u32>,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// How a command ended that did end.
pub struct VmOutcome {
    /// Its exit status, at most [`plan::LARGEST`].
    pub status: u8,
    /// From power-on to power-off.
    pub took: Duration,
}

/// Runs the command line.
///
/// # Errors
/// Something cannot be fetched or built, or a kernel gave no verdict.
pub fn main(args: &Args) -> Result<ExitCode> {
    build_if_ours(&args.command)?;
    let kernels: Vec<&'static Kernel> = if args.all { kernel::KERNELS.iter().collect() } else { args.kernel.clone() };
    let (mut first, mut unsure) = (0, 0);
    for kernel in &kernels {
        match run(&request(args, kernel, kernels.len() > 1)?, Box::new(std::io::stdout()), Box::new(std::io::stderr()))
        {
            Ok(outcome) => {
                ui::say(format!(
                    "kernel {}: exit status {} ({})",
                    kernel.name,
                    outcome.status,
                    ui::seconds(outcome.took)
                ));
                first = if first == 0 { outcome.status } else { first };
            }
            Err(error) => {
                ui::say(format!("kernel {}: {error:#}", kernel.name));
                unsure += 1;
            }
        }
    }
    Ok(ExitCode::from(if unsure > 0 { 2 } else { first }))
}

fn request(args: &Args, kernel: &'static Kernel, several: bool) -> Result<VmRequest> {
    let systemd = if args.systemd { tools::systemd()? } else { Vec::new() };
    let earlyoom = args.earlyoom.then(tools::earlyoom).transpose()?;
    let out = args.out.as_ref().map(|folder| if several { folder.join(kernel.name) } else { folder.clone() });
    Ok(VmRequest {
        kernel,
        memory_mb: args.mem,
        append: args.append.clone(),
        files: ours().chain(systemd).chain(earlyoom).chain(args.file.iter().cloned()).collect(),
        environment: args.env.clone(),
        out,
        timeout: Duration::from_secs(args.timeout),
        slow_disk_ms: args.slow_disk,
        disk_mb: args.disk,
        command: args.command.clone(),
    })
}

/// The comparison with a killer that is allowed nowhere else: `faultline-case rivals` with these words, beside earlyoom.
///
/// # Errors
/// It cannot be fetched.
pub fn rivals(words: impl Iterator<Item = String>) -> Result<VmRequest> {
    Ok(VmRequest {
        kernel: kernel::find("6.12")?,
        memory_mb: 512,
        append: Vec::new(),
        files: ours().chain([tools::earlyoom()?]).collect(),
        environment: Vec::new(),
        out: None,
        timeout: Duration::from_secs(300),
        slow_disk_ms: None,
        disk_mb: None,
        command: ["faultline-case", "rivals"].map(str::to_owned).into_iter().chain(words).collect(),
    })
}

/// Boots a kernel and runs the command in it.
///
/// # Errors
/// Something cannot be fetched or built; there is no verdict (panic, hang, timeout).
pub fn run(request: &VmRequest, stdout: Sink, stderr: Sink) -> Result<VmOutcome> {
    let init = build_init()?;
    let tools = tools::Tools::guest()?;
    let kernel = request.kernel.ensure()?;
    let modules = modules::archive(&kernel, &tools)?;
    let qemu = tools::qemu()?;
    let folder = run_folder(request.kernel)?;
    let machine = Machine {
        kernel: kernel.image,
        initrd: folder.join("initrd"),
        append: parameters(request),
        memory_mb: request.memory_mb,
        disks: disks(request, &folder)?,
        folder: folder.clone(),
        // The guest keeps the time itself; this is for one that hangs, boot and packing included.
        timeout: request.timeout + Duration::from_secs(60),
    };
    image::write(&machine.initrd, &tools, &modules, &init, &request.files, &plan(request))?;
    let clock = ui::Clock::start();
    let status = machine.run(qemu, stdout, stderr).inspect_err(|_| keep_console(&folder))?;
    let took = clock.elapsed();
    let unpacked = request.out.as_ref().map_or(Ok(()), |out| unpack_results(&folder.join("out.tar"), out));
    cache::remove(&folder)?;
    unpacked?;
    match status {
        plan::TIMED_OUT => bail!("no verdict: the command did not end within {} s", request.timeout.as_secs()),
        plan::INIT_FAILED => bail!("no verdict: the guest's init failed (its message is above)"),
        status if status > plan::LARGEST => bail!("no verdict: {status} is no status that the guest's init writes"),
        status => Ok(VmOutcome { status, took }),
    }
}

/// Start of the names of folders of runs; the process that made one comes next in its name.
const RUN: &str = "faultline-vm-";

/// Files of a run that are large.
const BULK: [&str; 3] = ["initrd", "out.tar", "disk"];

/// A new folder for this run. Those of runs that were killed go, as no one else will remove them.
fn run_folder(kernel: &Kernel) -> Result<PathBuf> {
    let parent = std::env::temp_dir();
    for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(RUN).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        let abandoned = owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists());
        // Without the bulk it is a console that was kept for people to read.
        if abandoned && entry.path().join(BULK[0]).exists() {
            let _ = cache::remove(&entry.path());
        }
    }
    let folder = parent.join(format!("{RUN}{}-{}", std::process::id(), kernel.name));
    cache::remove(&folder)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// After a run without a verdict: the console stays.
fn keep_console(folder: &Path) {
    for name in BULK {
        let _ = fs::remove_file(folder.join(name));
    }
}

fn plan(request: &VmRequest) -> Plan {
    Plan {
        command: request.command.clone(),
        environment: request.environment.clone(),
        modules: ["virtio_pci", "virtio_blk"].map(str::to_owned).to_vec(),
        timeout_s: request.timeout.as_secs(),
        out: request.out.is_some(),
    }
}

fn parameters(request: &VmRequest) -> String {
    const COMMON: &str =
        "console=ttyS0 panic=-1 loglevel=4 mitigations=off nokaslr random.trust_cpu=on RUST_BACKTRACE=1";
    let own = std::iter::once(request.kernel.append).chain(request.append.iter().map(String::as_str));
    std::iter::once(COMMON).chain(own).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Disks, known to the guest by their serial.
fn disks(request: &VmRequest, folder: &Path) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    let mut add = |name: &str, backing: String| {
        arguments.extend([
            "-blockdev".to_owned(),
            backing,
            "-device".to_owned(),
            format!("virtio-blk-pci,drive={name},serial={name}"),
        ]);
    };
    if let Some(delay) = request.slow_disk_ms {
        let nanoseconds = u64::from(delay) * 1_000_000;
        add("slow", format!("driver=null-co,node-name=slow,size=1073741824,latency-ns={nanoseconds},read-zeroes=on"));
    }
    let mut raw = |name: &str, file: &str, megabytes: u64| -> Result<()> {
        let path = folder.join(file);
        fs::File::create(&path)?.set_len(megabytes << 20).with_context(|| format!("cannot make {}", path.display()))?;
        add(name, format!("driver=raw,node-name={name},file.driver=file,file.filename={}", path.display()));
        Ok(())
    };
    if let Some(megabytes) = request.disk_mb {
        raw("plain", "disk", u64::from(megabytes))?;
    }
    if request.out.is_some() {
        // Sparse, so its size costs nothing.
        raw("out", "out.tar", 1024)?;
    }
    Ok(arguments)
}

fn unpack_results(archive: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(archive).arg("--no-same-owner").arg("-C").arg(out);
    process::output(&mut tar).map(drop).context("the guest left no readable results")
}

/// Builds the guest's PID 1.
fn build_init() -> Result<PathBuf> {
    process::run(cargo::command().args(["build", "--quiet", "--release", "--package", "xtask", "--bin", "vm-init"]))?;
    Ok(workspace::target().join("release/vm-init"))
}

/// Programs of this workspace, as far as they are built.
fn ours() -> impl Iterator<Item = GuestFile> {
    let folder = workspace::target().join("release");
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries
        .filter(|path| path.is_file() && is_ours(&path.file_name().unwrap_or_default().to_string_lossy()))
        .map(GuestFile::program)
}

fn is_ours(name: &str) -> bool {
    name == "faultline" || (name.starts_with("faultline-") && !name.contains('.'))
}

/// Builds the command's package if the command is a program of this workspace, so that a VM never tests yesterday's.
fn build_if_ours(command: &[String]) -> Result<()> {
    let Some(name) = command.first().filter(|name| is_ours(name)) else { return Ok(()) };
    build_ebpf::build()?;
    let package = if name == "faultline" { "faultline" } else { "faultline-tests" };
    let mut build = cargo::command();
    build.args(["build", "--quiet", "--release", "--package", "faultline", "--bin", "faultline"]);
    if package != "faultline" {
        build.args(["--package", package, "--bin", name]);
    }
    process::run(&mut build)
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}
