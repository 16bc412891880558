//! The second choice: Debian's `rustc-web` set, unpacked into the cache. In: this machine's Debian mirror. Out: a toolchain with a ready-made
//! core for the BPF target, so nothing has to be built from the source of core.
//!
//! The packages: compiler, its driver library, LLVM, the host's std (build scripts and derive macros) and core for BPF; about 150 MB fetched.
//! `rust-web-src` is not needed: paths of core inside the ready-made library are fixed (`/usr/src/rustc-...`) and equal on every machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{TARGET, Toolchain};
use crate::apt::{self, Apt, Mirrors};
use crate::{cache, manifest, process, ui};

/// What to fetch; the libraries they depend on are found through their control records, because their names carry versions.
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// Dependencies that belong to the set. Everything else in `Depends` (libc, gcc, ...) must be on the machine, as for any Rust build.
const FAMILY: [&str; 2] = ["libstd-rust-web", "libllvm"];

/// The oldest compiler that the dependencies of the kernel side accept.
const OLDEST: (u32, u32) = (1, 95);

/// The toolchain from the cache, fetched first where it is not there or not intact.
///
/// # Errors
/// This is no Debian of amd64, its mirror does not carry the packages, or a download or its verification failed.
pub fn ensure(linker: &Path, verify: bool) -> Result<Toolchain> {
    let root = cache::folder()?.join("rustc-web");
    if let Err(why) = manifest::check(&root, verify) {
        if root.exists() {
            ui::say(format!("  the unpacked toolchain is not intact ({why:#}); fetching it again"));
        }
        fetch(&root)?;
    }
    describe(&root, linker)
}

fn fetch(root: &Path) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the Debian way is known for x86_64 only, and this machine is {}", std::env::consts::ARCH);
    }
    let apt = Apt::of_this_release(&Mirrors::of_this_machine()?)?;
    let packages = resolve(&apt)?;
    cache::publish(root, |folder| unpack(&apt, &packages, folder))
}

/// The packages with their version-named libraries.
fn resolve(apt: &Apt) -> Result<Vec<String>> {
    let mut wanted: Vec<String> = PACKAGES.map(str::to_owned).to_vec();
    let mut next = 0;
    while let Some(name) = wanted.get(next).cloned() {
        let record =
            apt.show(&name)?.with_context(|| format!("this machine's Debian release carries no package {name}"))?;
        for dependency in record.depends() {
            let ours = FAMILY.iter().any(|family| dependency.starts_with(family));
            if ours && !wanted.iter().any(|known| known == dependency) {
                wanted.push(dependency.to_owned());
            }
        }
        next += 1;
    }
    Ok(wanted)
}

fn unpack(apt: &Apt, packages: &[String], folder: &Path) -> Result<()> {
    let downloads = folder.join("debs");
    std::fs::create_dir_all(&downloads)?;
    let debs = ui::step(&format!("download {}", packages.join(" ")), || apt.download(packages, &downloads))?;
    ui::step("unpack and record", || {
        let hashes = manifest::hash(&debs)?;
        for deb in &debs {
            apt::unpack(deb, folder)?;
        }
        cache::remove(&downloads)?;
        manifest::write(folder, &hashes)
    })
}

fn describe(root: &Path, linker: &Path) -> Result<Toolchain> {
    let rustc = root.join("usr/bin/rustc");
    let libraries = libraries(root)?;
    let text = process::output(Command::new(&rustc).arg("--version").env("LD_LIBRARY_PATH", &libraries))
        .with_context(|| format!("the unpacked compiler does not run; remove {} and try again", root.display()))?;
    check_version(&text)?;
    check_core(root)?;
    Ok(Toolchain {
        description: format!("{} (Debian rustc-web, unpacked in {})", text.trim(), root.display()),
        environment: vec![
            ("RUSTC".into(), rustc.display().to_string()),
            ("LD_LIBRARY_PATH".into(), libraries),
            // Inline assembler for BPF is unstable: these two crates may use it, no other may come to depend on it unnoticed.
            ("RUSTC_BOOTSTRAP".into(), "aya_ebpf,faultline_ebpf".into()),
        ],
        cargo_arguments: Vec::new(),
        channel: None,
        sources: Vec::new(),
        linker: linker.to_path_buf(),
    })
}

/// Folders with the compiler's driver and LLVM, for the dynamic linker. bpf-linker finds LLVM by the same variable.
fn libraries(root: &Path) -> Result<String> {
    let folder = root.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    if !folder.is_dir() {
        bail!("{} is missing in the unpacked toolchain", folder.display());
    }
    Ok(folder.display().to_string())
}

fn check_version(text: &str) -> Result<()> {
    let number = text.split_whitespace().nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < OLDEST {
        bail!("this Debian release offers rustc {number}; {}.{} is the oldest that will do", OLDEST.0, OLDEST.1);
    }
    Ok(())
}

fn check_core(root: &Path) -> Result<PathBuf> {
    let folder = root.join("usr/lib/rustlib").join(TARGET).join("lib");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("no core library for {TARGET} in {}", folder.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcore-")))
        .with_context(|| format!("no core library for {TARGET} in {}", folder.display()))
}
