//! The first choice: a rustup nightly that carries rust-src. In: rustup's list. Out: a toolchain that builds core with the program, or nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Toolchain;
use crate::process;

/// The newest-listed nightly that has the source of core and answers `--version`; nothing where there is none.
pub fn find(linker: &Path) -> Option<Toolchain> {
    process::find("rustup")?;
    let list = process::output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with("nightly")).find_map(|name| toolchain(name, linker))
}

fn toolchain(channel: &str, linker: &Path) -> Option<Toolchain> {
    let rustc = |argument: &[&str]| {
        let mut command = Command::new("rustup");
        command
            .args(["run", channel, "rustc"])
            .args(argument)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("LD_LIBRARY_PATH");
        process::output(&mut command).ok()
    };
    let root = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
    let source = root.join("lib/rustlib/src/rust");
    if !source.join("library/core/src/lib.rs").is_file() {
        return None;
    }
    let version = rustc(&["--version"])?.trim().to_owned();
    Some(Toolchain {
        description: format!("{version} (rustup {channel} with rust-src)"),
        // bpf-linker loads LLVM from here: it must be at least as new as the compiler's.
        environment: vec![("LD_LIBRARY_PATH".into(), root.join("lib").display().to_string())],
        cargo_arguments: vec!["-Zbuild-std=core".into()],
        channel: Some(channel.to_owned()),
        sources: vec![source],
        linker: linker.to_path_buf(),
    })
}
