//! The guest's first root file system. In: tools, modules, files of this machine. Out: one file of three archives, the first two from the cache.
//!
//! Host programs bring their shared libraries, found with ldd and laid over those of the guest's tools: a program built here needs the libraries
//! it was linked with, and older programs run with newer ones.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::plan::{self, Plan};
use super::tools::Tools;
use crate::{cache, process, ui};

/// Version of the base archive's content.
const FORMAT: u32 = 4;

/// Where host libraries go: first in the guest's default search path.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

/// Programs above this size are stripped on their way in: debug information would only take the guest's memory.
const STRIP_ABOVE: u64 = 4 << 20;

/// A file or folder of this machine, and where the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestFile {
    /// On this machine.
    pub source: PathBuf,
    /// In the guest.
    pub path: PathBuf,
}

impl GuestFile {
    /// A program, in the guest's search path.
    pub fn program(source: PathBuf) -> Self {
        let name = source.file_name().unwrap_or_default().to_owned();
        Self { source, path: Path::new("/usr/local/bin").join(name) }
    }
}

impl std::str::FromStr for GuestFile {
    type Err = String;

    /// `HOSTPATH[:GUESTPATH]`; programs go to `/usr/local/bin`, everything else to `/data`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (source, path) = text.split_once(':').map_or((text, None), |(source, path)| (source, Some(path)));
        let source = PathBuf::from(source);
        let data = fs::metadata(&source).map_err(|error| format!("{}: {error}", source.display()))?;
        if let Some(path) = path {
            return Ok(Self { source, path: PathBuf::from(path) });
        }
        if data.is_file() && data.permissions().mode() & 0o111 != 0 {
            return Ok(Self::program(source));
        }
        let source = fs::canonicalize(&source).map_err(|error| format!("{text}: {error}"))?;
        let name = source.file_name().unwrap_or_default().to_owned();
        Ok(Self { source, path: Path::new("/data").join(name) })
    }
}

/// Writes base, modules and this run's files to `destination`.
///
/// # Errors
/// A file cannot be read or `destination` not be written.
pub fn write(
    destination: &Path,
    tools: &Tools,
    modules: &Path,
    init: &Path,
    files: &[GuestFile],
    plan: &Plan,
) -> Result<()> {
    let mut out =
        BufWriter::new(File::create(destination).with_context(|| format!("cannot make {}", destination.display()))?);
    for part in [base(tools)?.as_path(), modules] {
        std::io::copy(&mut File::open(part)?, &mut out).with_context(|| format!("cannot copy {}", part.display()))?;
    }
    let mut archive = Archive::new(out);
    archive.bytes(Path::new(plan::PATH), 0o644, &serde_json::to_vec(plan)?)?;
    let mut libraries = BTreeSet::new();
    add_program(&mut archive, Path::new("/init"), init, &mut libraries)?;
    for file in files {
        add(&mut archive, file, &mut libraries)?;
    }
    for library in libraries {
        add_library(&mut archive, &library)?;
    }
    archive.finish()?.flush().context("cannot write the guest's file system")
}

fn add<W: Write>(archive: &mut Archive<W>, file: &GuestFile, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
    if file.source.is_dir() {
        archive.folder(&file.path)?;
        return archive.tree(&file.path, &file.source, &|_| true);
    }
    if is_elf(&file.source) {
        return add_program(archive, &file.path, &file.source, libraries);
    }
    archive.file(&file.path, &file.source)
}

fn add_program<W: Write>(
    archive: &mut Archive<W>,
    path: &Path,
    source: &Path,
    libraries: &mut BTreeSet<PathBuf>,
) -> Result<()> {
    libraries.extend(needed(source)?);
    let large = fs::metadata(source).with_context(|| format!("cannot read {}", source.display()))?.len() > STRIP_ABOVE;
    match if large { stripped(source) } else { None } {
        Some(bytes) => archive.bytes(path, 0o755, &bytes),
        None => archive.file(path, source),
    }
}

/// The program without debug information, where binutils are at hand.
fn stripped(source: &Path) -> Option<Vec<u8>> {
    let strip = process::find("strip")?;
    let copy = std::env::temp_dir().join(format!("faultline-strip-{}", std::process::id()));
    let done = process::output(Command::new(strip).arg("--strip-debug").arg("-o").arg(&copy).arg(source));
    let bytes = fs::read(&copy).ok();
    let _ = fs::remove_file(&copy);
    done.ok().and(bytes)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

/// Shared libraries of a program, as this machine's dynamic linker finds them; a static program has none.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let done = process::capture(Command::new("ldd").arg(program))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        anyhow::bail!("{} needs a library that is missing here: {}", program.display(), line.trim());
    }
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn add_library<W: Write>(archive: &mut Archive<W>, library: &Path) -> Result<()> {
    let name = library.file_name().unwrap_or_default();
    let folder = if name.to_string_lossy().starts_with("ld-linux") { "/lib64" } else { LIBRARIES };
    archive.file(&Path::new(folder).join(name), library)
}

/// The archive of the guest's tools.
fn base(tools: &Tools) -> Result<PathBuf> {
    let _lock = cache::lock("vm/base")?;
    let name = tools.root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = cache::folder()?.join("vm").join(format!("base-{FORMAT}-{name}"));
    let archive = folder.join("base.cpio");
    if !archive.is_file() {
        ui::step("make the guest's base archive", || {
            cache::publish(&folder, |part| make_base(tools, &part.join("base.cpio")))
        })?;
    }
    Ok(archive)
}

fn make_base(tools: &Tools, destination: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(destination)?));
    for folder in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "out",
        "data",
        "etc",
    ] {
        archive.folder(Path::new(folder))?;
    }
    archive.device(Path::new("dev/console"), 5, 1)?;
    archive.bytes(
        Path::new("etc/passwd"),
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    archive.bytes(Path::new("etc/group"), 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    archive.bytes(Path::new("etc/hosts"), 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
    add_applets(&mut archive, tools)?;
    for top in ["bin", "sbin", "lib", "lib64", "usr", "etc/iproute2"] {
        let source = tools.root.join(top);
        // In a merged release the first four are links or absent.
        if source.is_dir() && !source.is_symlink() {
            archive.tree(&Path::new("/").join(top), &source, &is_wanted)?;
        }
    }
    archive.merge_links()?;
    archive.link(Path::new("usr/bin/sh"), Path::new("dash"))?;
    archive.finish()?.flush().context("cannot write the base archive")
}

/// Links for what busybox can do and no real tool does.
fn add_applets<W: Write>(archive: &mut Archive<W>, tools: &Tools) -> Result<()> {
    let folders = ["usr/bin", "bin", "usr/sbin", "sbin"].map(|folder| tools.root.join(folder));
    let real = |name: &str| {
        folders.iter().map(|folder| folder.join(name)).any(|path| is_wanted(&path) && path.symlink_metadata().is_ok())
    };
    for path in process::output(tools.command("busybox")?.arg("--list-full"))?.lines() {
        let name = path.rsplit('/').next().unwrap_or(path);
        if name != "sh" && !real(name) {
            archive.link(Path::new(path), Path::new("/usr/bin/busybox"))?;
        }
    }
    Ok(())
}

/// Leaves out what a guest never opens: a third of the unpacked tools.
fn is_wanted(path: &Path) -> bool {
    const FOLDERS: [&str; 11] = [
        "usr/share",
        "usr/include",
        "gconv",
        "perl",
        "systemd",
        "udev",
        "engines-3",
        "ossl-modules",
        "e2fsprogs",
        "init",
        "locale",
    ];
    const FILES: [&str; 16] = [
        "sh",
        "tar",
        "arpd",
        "rdma",
        "devlink",
        "tipc",
        "dcb",
        "vdpa",
        "genl",
        "debugfs",
        "e2image",
        "rmt-tar",
        "libdb-5.3.so",
        "libssl.so.3",
        "libmvec.so.1",
        "libc_malloc_debug.so.0",
    ];
    let text = path.to_string_lossy();
    !FOLDERS.iter().chain(&FILES).any(|name| text.strip_suffix(name).is_some_and(|start| start.ends_with('/')))
}
