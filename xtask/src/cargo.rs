//! Cargo as a child of `cargo xtask`, without what the outer cargo leaves in the environment.
//!
//! The outer cargo sets `CARGO_PKG_*`, `CARGO_MANIFEST_*` and a library path for xtask itself. Handed on, they make the inner cargo see other
//! inputs than a cargo started by hand, and rebuild the world at every change between the two.

use std::process::Command;

use crate::workspace;

/// Variables that the outer cargo or rustup sets for this process alone.
const OURS: &[&str] =
    &["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "LD_LIBRARY_PATH"];

/// Cargo in the workspace root, with a clean environment.
pub fn command() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    clean(&mut command);
    command.current_dir(workspace::root());
    command
}

/// Removes what the outer cargo set for xtask itself.
pub fn clean(command: &mut Command) {
    for name in OURS {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_BIN_") {
            command.env_remove(&name);
        }
    }
}
