//! Real Debian kernels. In: a version such as `6.12`. Out: a boot image and a module tree in the cache.
//!
//! Names of kernel packages rotate with security updates, so most entries go through a meta package; what was unpacked once is kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt, Mirrors};
use crate::{cache, manifest, ui};

/// One kernel that `cargo xtask vm` can boot.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What `--kernel` takes.
    pub name: &'static str,
    suite: &'static str,
    package: &'static str,
    /// Kernel parameters that this series alone needs.
    pub append: &'static str,
}

const META: &str = "linux-image-cloud-amd64";

/// All kernels, oldest first. The cloud flavour has every module that the tests need at a fraction of the size.
pub const KERNELS: &[Kernel] = &[
    // A frozen name, for `mark_victim` as it was before it was widened inside the same series.
    Kernel { name: "5.10.218", suite: "bullseye", package: "linux-image-5.10.0-30-cloud-amd64", append: BPF_LSM },
    Kernel { name: "5.10.262", suite: "bullseye-security", package: META, append: BPF_LSM },
    Kernel { name: "6.1", suite: "bookworm", package: META, append: "" },
    Kernel { name: "6.12", suite: "trixie-security", package: META, append: "" },
    Kernel { name: "6.18", suite: "trixie-backports", package: "linux-image-6.18.15+deb13-cloud-amd64", append: "" },
    Kernel { name: "7.3", suite: "trixie-backports", package: META, append: "" },
];

/// 5.10 has the BPF LSM built in but not switched on.
const BPF_LSM: &str = "lsm=lockdown,capability,yama,bpf";

/// Packages that belong to a kernel; everything else in `Depends` is for an installed system.
const FAMILY: [&str; 4] = ["linux-image-", "linux-binary-", "linux-modules-", "linux-base-"];

/// The kernel called `name`.
///
/// # Errors
/// There is none; the message lists those that are.
pub fn find(name: &str) -> Result<&'static Kernel> {
    let known = || KERNELS.iter().map(|kernel| kernel.name).collect::<Vec<_>>().join(", ");
    KERNELS
        .iter()
        .find(|kernel| kernel.name == name)
        .with_context(|| format!("no kernel `{name}`: choose one of {}", known()))
}

/// An unpacked kernel.
pub struct Unpacked {
    /// The boot image.
    pub image: PathBuf,
    /// The folder above `lib/modules`.
    pub root: PathBuf,
    /// `uname -r`.
    pub release: String,
}

impl Kernel {
    /// The kernel from the cache, fetched first where it is not there.
    ///
    /// # Errors
    /// The mirror does not carry it, or a download or its verification failed.
    pub fn ensure(&self) -> Result<Unpacked> {
        let _lock = cache::lock(&format!("vm/kernel-{}", self.name))?;
        let root = cache::folder()?.join("vm").join(format!("kernel-{}", self.name));
        if manifest::check(&root, false).is_err() {
            ui::step(&format!("fetch kernel {}", self.name), || self.fetch(&root))?;
        }
        locate(&root)
    }

    fn fetch(&self, root: &Path) -> Result<()> {
        let apt = Apt::open(&Mirrors::of_this_machine()?, &[self.suite])?;
        let packages = self.resolve(&apt)?;
        cache::publish(root, |folder| {
            let debs = apt.download(&packages, folder)?;
            let hashes = manifest::hash(&debs)?;
            for deb in &debs {
                apt::unpack(deb, folder)?;
                fs::remove_file(deb)?;
            }
            // A merged tree whatever the release: depmod and modprobe look below lib/modules.
            if !folder.join("lib").exists() {
                std::os::unix::fs::symlink("usr/lib", folder.join("lib"))?;
            }
            locate(folder)?;
            manifest::write(folder, &hashes)
        })
    }

    /// From the (meta) package to the packages that carry image and modules.
    fn resolve(&self, apt: &Apt) -> Result<Vec<String>> {
        let mut wanted = vec![self.package.to_owned()];
        let mut next = 0;
        while let Some(name) = wanted.get(next).cloned() {
            let record = apt.show(&name)?.with_context(|| format!("the mirror's {} carries no {name}", self.suite))?;
            for dependency in record.depends() {
                let ours = FAMILY.iter().any(|family| dependency.starts_with(family));
                if ours && !wanted.iter().any(|known| known == dependency) {
                    wanted.push(dependency.to_owned());
                }
            }
            next += 1;
        }
        // The meta package holds nothing but its dependencies.
        wanted.retain(|name| name != META);
        Ok(wanted)
    }
}

/// Finds image and release in an unpacked tree: `boot/vmlinuz-VER`, or `usr/lib/modules/VER/vmlinuz` in split packages.
fn locate(root: &Path) -> Result<Unpacked> {
    let modules = root.join("lib/modules");
    let mut entries = fs::read_dir(&modules).with_context(|| format!("no modules in {}", root.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", modules.display()))??;
    let release = entry.file_name().to_string_lossy().into_owned();
    let places = [root.join(format!("boot/vmlinuz-{release}")), entry.path().join("vmlinuz")];
    match places.into_iter().find(|path| path.is_file()) {
        Some(image) => Ok(Unpacked { image, root: root.to_path_buf(), release }),
        None => bail!("no boot image for {release} in {}", root.display()),
    }
}
