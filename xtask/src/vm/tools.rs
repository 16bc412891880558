//! The programs that a VM needs, unpacked from this machine's Debian release into the cache: what runs inside the guest, and QEMU where the
//! machine has none. In: package names. Out: folders, and commands that run from them.
//!
//! Unpacked programs run through the dynamic linker of their own closure, so the machine's libraries never mix in and nothing is installed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::image::GuestFile;
use crate::apt::{self, Apt, Mirrors};
use crate::{cache, manifest, process, ui};

/// What a guest offers besides busybox: a real shell (busybox's prefers its own `tc`, `ip` and `modprobe`) and the real network, device and
/// module tools. `xz-utils` serves the host side: modules are decompressed once, not at every boot.
const GUEST: &[&str] =
    &["busybox-static", "dash", "iproute2", "nftables", "dmsetup", "kmod", "e2fsprogs", "xz-utils", "libgcc-s1"];

/// A service manager and its message bus, for guests that are asked for one.
const SYSTEMD: &[&str] = &["systemd", "dbus-daemon"];

/// Programs of the above; the second only from systemd 254 on, where the first cannot start a service without it.
const SYSTEMD_PROGRAMS: [(&str, bool); 3] =
    [("usr/lib/systemd/systemd", true), ("usr/lib/systemd/systemd-executor", false), ("usr/bin/dbus-daemon", true)];

/// A killer of large processes that polls the machine's memory, for guests that are asked for one. It never runs outside of one.
const EARLYOOM: &[&str] = &["earlyoom"];

/// The emulator and its firmware.
const QEMU: &[&str] = &["qemu-system-x86"];

/// A closure of packages unpacked below one folder.
pub struct Tools {
    /// The folder.
    pub root: PathBuf,
}

impl Tools {
    /// The guest's tools.
    ///
    /// # Errors
    /// The machine's mirror cannot be used, or a download or its verification failed.
    pub fn guest() -> Result<Self> {
        Self::ensure("guest", GUEST)
    }

    /// A program of the unpacked tree, by its name.
    ///
    /// # Errors
    /// The program or the dynamic linker is not in the tree.
    pub fn command(&self, name: &str) -> Result<Command> {
        let loader = self.first(
            &["lib64", "lib/x86_64-linux-gnu", "usr/lib64", "usr/lib/x86_64-linux-gnu"],
            "ld-linux-x86-64.so.2",
        )?;
        let program = self.first(&["usr/bin", "bin", "usr/sbin", "sbin"], name)?;
        let libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|folder| self.root.join(folder));
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(std::env::join_paths(libraries)?).arg("--argv0").arg(name).arg(program);
        Ok(command)
    }

    /// The first of `folders` that holds a file called `name`, links within the tree followed.
    fn first(&self, folders: &[&str], name: &str) -> Result<PathBuf> {
        let candidates = folders.iter().map(|folder| self.root.join(folder).join(name));
        candidates
            .filter_map(|path| self.follow(path))
            .next()
            .with_context(|| format!("{} has no {name}; remove that folder to fetch it again", self.root.display()))
    }

    /// Absolute links in a package point below `/` of the installed system, which here is `root`.
    fn follow(&self, path: PathBuf) -> Option<PathBuf> {
        let path = match std::fs::read_link(&path) {
            Ok(link) if link.is_absolute() => self.root.join(link.strip_prefix("/").ok()?),
            _ => path,
        };
        path.is_file().then_some(path)
    }

    fn ensure(name: &str, packages: &[&str]) -> Result<Self> {
        let _lock = cache::lock(&format!("vm/{name}"))?;
        // The list is part of the name: another list is another tree.
        let root = cache::folder()?.join("vm").join(format!("{name}-{:08x}", checksum(packages)));
        if manifest::check(&root, false).is_err() {
            let apt = Apt::of_this_release(&Mirrors::of_this_machine()?)?;
            ui::step(&format!("fetch {}", packages.join(" ")), || {
                cache::publish(&root, |folder| fetch(&apt, packages, folder))
            })?;
        }
        Ok(Self { root })
    }
}

/// A service manager for the guest: this machine's own, else from the cache (its libraries must be on the machine then).
///
/// # Errors
/// There is none here and none can be fetched.
pub fn systemd() -> Result<Vec<GuestFile>> {
    let here = Path::new("/");
    if let Some(files) = systemd_below(here) {
        return Ok(files);
    }
    let tools = Tools::ensure("systemd", SYSTEMD)?;
    systemd_below(&tools.root)
        .with_context(|| format!("{} has no systemd; remove that folder to fetch it again", tools.root.display()))
}

/// earlyoom for the guest, always from the cache: nobody has it running by accident.
///
/// # Errors
/// It cannot be fetched.
pub fn earlyoom() -> Result<GuestFile> {
    let tools = Tools::ensure("earlyoom", EARLYOOM)?;
    Ok(GuestFile::program(tools.first(&["usr/bin", "bin"], "earlyoom")?))
}

fn systemd_below(root: &Path) -> Option<Vec<GuestFile>> {
    let mut files = Vec::new();
    for (program, needed) in SYSTEMD_PROGRAMS {
        // Before the merge of /usr the manager was in /lib.
        let places = [root.join(program), root.join(program.trim_start_matches("usr/"))];
        match places.into_iter().find(|path| path.is_file()) {
            Some(source) => files.push(GuestFile { source, path: Path::new("/").join(program) }),
            None if needed => return None,
            None => {}
        }
    }
    Some(files)
}

/// QEMU from `PATH`, else from the cache.
///
/// # Errors
/// There is none on `PATH` and none can be fetched.
pub fn qemu() -> Result<Command> {
    if let Some(path) = process::find("qemu-system-x86_64") {
        return Ok(Command::new(path));
    }
    let tools = Tools::ensure("qemu", QEMU)?;
    let mut command = tools.command("qemu-system-x86_64")?;
    // Debian builds accelerators and devices as modules.
    command.env("QEMU_MODULE_DIR", tools.root.join("usr/lib/x86_64-linux-gnu/qemu"));
    for folder in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
        command.arg("-L").arg(tools.root.join(folder));
    }
    Ok(command)
}

fn fetch(apt: &Apt, packages: &[&str], folder: &Path) -> Result<()> {
    let downloads = folder.join("debs");
    std::fs::create_dir_all(&downloads)?;
    let debs = apt.download_closure(packages, &downloads)?;
    let hashes = manifest::hash(&debs)?;
    for deb in debs.iter().filter(|deb| !is_unwanted(deb)) {
        apt::unpack(deb, folder)?;
    }
    cache::remove(&downloads)?;
    cache::remove(&folder.join("usr/share/doc"))?;
    manifest::write(folder, &hashes)
}

/// Packages that only an installation needs.
fn is_unwanted(deb: &Path) -> bool {
    let name = deb.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    ["debconf_", "dpkg_", "perl-base_", "passwd_", "adduser_", "iso-codes_"].iter().any(|start| name.starts_with(start))
}

/// A short, stable mark of a package list.
fn checksum(packages: &[&str]) -> u32 {
    let bytes = packages.iter().flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
