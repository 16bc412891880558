//! In: paths and texts. Out: a directory that stands for a machine's `/`, gone when the test ends.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Root;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A root directory made for one test.
pub(super) struct Fixture {
    dir: PathBuf,
    root: Root,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("faultline-kernel-{}-{id}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary directory");
        Self { root: Root::new(&dir), dir }
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Adds a file, with its directories.
    pub(super) fn file(self, absolute: &str, text: &str) -> Self {
        let path = self.prepared(absolute);
        std::fs::write(path, text).expect("fixture file");
        self
    }

    /// Adds a symbolic link; its target need not exist.
    pub(super) fn link(self, absolute: &str, target: &str) -> Self {
        let path = self.prepared(absolute);
        std::os::unix::fs::symlink(target, path).expect("fixture link");
        self
    }

    fn prepared(&self, absolute: &str) -> PathBuf {
        let path = self.root.path(absolute);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("fixture directory");
        path
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A leftover directory under the temporary one harms nobody; a failed clean-up must not fail the test.
        _ = std::fs::remove_dir_all(&self.dir);
    }
}
