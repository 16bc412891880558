//! Embeds the eBPF object that `cargo xtask build-ebpf` made, or fails naming that command.
//!
//! In: `target/bpf/faultline.bpf.o` of this workspace (or the file named by `FAULTLINE_BPF_OBJECT`). Out: the compile-time variable
//! `FAULTLINE_BPF_OBJECT`, an absolute path for `include_bytes_aligned!(env!(..))`. The object is not built from here: it needs another
//! compiler target and toolchain, and a build script that downloads one would surprise people. There is no empty stand-in either, because an
//! agent without its programs would start and feel nothing.

#![expect(clippy::disallowed_macros, reason = "cargo reads what a build script prints")]

#[path = "../xtask/src/build_ebpf/inputs.rs"]
mod inputs;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

/// Names the object, both as the override that a packager sets and as what the crate reads.
const VARIABLE: &str = "FAULTLINE_BPF_OBJECT";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    match object() {
        Ok(path) => {
            println!("cargo::rustc-env={VARIABLE}={}", path.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

/// The object to embed, checked.
fn object() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(VARIABLE) {
        return given(Path::new(&path));
    }
    let manifest = env::var_os("CARGO_MANIFEST_DIR").ok_or("CARGO_MANIFEST_DIR is not set")?;
    let workspace = Path::new(&manifest).parent().ok_or("the manifest has no parent folder")?;
    let object = workspace.join("target/bpf/faultline.bpf.o");
    let sources = object.with_extension("sources");
    for path in [&object, &sources] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    for input in inputs::INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    readable(&object)?;
    check_sources(workspace, &sources)?;
    Ok(object)
}

/// An object from elsewhere is taken as it is: whoever sets the variable answers for its sources.
fn given(path: &Path) -> Result<PathBuf, String> {
    println!("cargo::rerun-if-changed={}", path.display());
    if !path.is_absolute() {
        return Err(format!("{VARIABLE} must be an absolute path, not {}", path.display()));
    }
    readable(path)?;
    Ok(path.to_path_buf())
}

fn readable(object: &Path) -> Result<(), String> {
    match fs::metadata(object) {
        Ok(data) if data.len() > 0 => Ok(()),
        Ok(_) => Err(format!("the eBPF object {} is empty: run `cargo xtask build-ebpf`", object.display())),
        Err(error) => Err(format!("no eBPF object at {} ({error}): run `cargo xtask build-ebpf`", object.display())),
    }
}

/// The fingerprint that `build-ebpf` left must be that of the sources as they are now.
fn check_sources(workspace: &Path, recorded: &Path) -> Result<(), String> {
    let now = inputs::fingerprint(workspace).map_err(|error| format!("cannot read the eBPF sources: {error}"))?;
    let then = fs::read_to_string(recorded).unwrap_or_default();
    if then.trim() == now {
        return Ok(());
    }
    Err("the eBPF object was made from other sources than ebpf/ and common/ hold now: run `cargo xtask build-ebpf`"
        .to_owned())
}
