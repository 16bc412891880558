//! `cargo xtask build-ebpf`: the kernel side, compiled and linked. In: `ebpf/` and `common/`. Out: `target/bpf/faultline.bpf.o`, without
//! debug sections but with BTF, and beside it the fingerprint of its sources, which `agent/build.rs` compares before it embeds the object.
//!
//! aya-build is not used: it insists on building core through rustup, which a machine without rust-src cannot do.

mod check;
mod elf;
mod inputs;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::setup::{self, TARGET, Toolchain};
use crate::{cache, process, ui, workspace};

/// File name of the object in `target/bpf`.
pub const OBJECT: &str = "faultline.bpf.o";

/// Build the eBPF object that the agent embeds (runs `setup` first where needed).
#[derive(clap::Args)]
pub struct Args {
    /// Build twice, from two checkout paths with two cargo homes and empty target folders, and compare the bytes.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// No toolchain, or the build fails.
pub fn main(args: &Args) -> Result<ExitCode> {
    if args.check {
        return check::main();
    }
    build()?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the object of this workspace and returns its path.
///
/// # Errors
/// No toolchain, or the build fails.
pub fn build() -> Result<PathBuf> {
    let clock = ui::Clock::start();
    let toolchain = setup::ensure(false)?;
    let root = workspace::root();
    // Taken before the build: an edit during it must not pass for built.
    let fingerprint = inputs::fingerprint(&root).context("cannot read the eBPF sources")?;
    let made = compile(&toolchain, &Place::here(&root)?)?;
    let object = workspace::bpf_output().join(OBJECT);
    let bytes = fs::read(&made).with_context(|| format!("cannot read {}", made.display()))?;
    let bytes =
        elf::without_debug(&bytes).with_context(|| format!("{} is not the object it should be", made.display()))?;
    let changed = cache::write_if_changed(&object, &bytes)?;
    cache::write_if_changed(&object.with_extension("sources"), fingerprint.as_bytes())?;
    let note = if changed { "changed" } else { "unchanged" };
    ui::say(format!("{}: {} bytes, {note} ({})", object.display(), bytes.len(), clock.text()));
    Ok(object)
}

/// Where a build takes place; `--check` varies all three.
struct Place {
    workspace: PathBuf,
    cargo_home: PathBuf,
    target: PathBuf,
}

impl Place {
    fn here(root: &Path) -> Result<Self> {
        let home = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
            .context("no cargo home: set CARGO_HOME or HOME")?;
        Ok(Self { workspace: root.to_path_buf(), cargo_home: home, target: workspace::target().join("bpf-build") })
    }
}

/// Compiles and links in `place`; returns the object as the linker wrote it.
fn compile(toolchain: &Toolchain, place: &Place) -> Result<PathBuf> {
    let mut command = toolchain.cargo();
    command.current_dir(&place.workspace).args(["build", "--quiet", "--release", "--package", "faultline-ebpf"]);
    command.args(["--bin", "faultline-ebpf", "--target", TARGET, "--target-dir"]).arg(&place.target);
    command.args(&toolchain.cargo_arguments);
    command.env("CARGO_HOME", &place.cargo_home);
    // Encoded (separated by 0x1f), so that paths may hold spaces.
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain, place).join(&OsString::from("\u{1f}")));
    process::run(&mut command).context("the eBPF object was not built; the compiler's messages are above")?;
    Ok(place.target.join(TARGET).join("release/faultline-ebpf"))
}

fn rustflags(toolchain: &Toolchain, place: &Place) -> Vec<OsString> {
    let arch = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" };
    let mut flags: Vec<OsString> = ["-Cdebuginfo=2", "-Clink-arg=--btf", "--cfg"].map(OsString::from).to_vec();
    flags.push(format!("bpf_target_arch=\"{arch}\"").into());
    flags.extend(remaps(toolchain, place));
    flags
}

/// Where the build takes place must not show in the object. rustc lets the last matching prefix win, so the general ones come first.
fn remaps(toolchain: &Toolchain, place: &Place) -> Vec<OsString> {
    let mut pairs = vec![(place.cargo_home.clone(), "/cargo")];
    let registries = fs::read_dir(place.cargo_home.join("registry/src")).into_iter().flatten();
    pairs.extend(registries.filter_map(|entry| Some((entry.ok()?.path(), "/crates"))));
    pairs.extend(toolchain.sources.iter().map(|source| (source.clone(), "/rust")));
    pairs.push((place.target.clone(), "/build"));
    pairs.push((place.workspace.clone(), "/faultline"));
    pairs.into_iter().map(|(from, to)| remap(&from, to)).collect()
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}
