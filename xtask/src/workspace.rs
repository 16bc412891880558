//! Where things are: the workspace, the files that one command makes and another reads.

use std::path::{Path, PathBuf};

/// The checkout that this xtask was built from.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's output folder, honouring `CARGO_TARGET_DIR`.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Where `build-ebpf` leaves the object and `agent/build.rs` looks for it. Fixed below the workspace, also under `CARGO_TARGET_DIR`,
/// because a build script is not told where the target folder is.
pub fn bpf_output() -> PathBuf {
    root().join("target/bpf")
}
