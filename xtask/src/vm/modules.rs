//! The modules that a test may load, per kernel. In: an unpacked kernel. Out: one cached archive with those modules, what they depend on, and
//! the tables by which modprobe and the kernel's own autoloader find them.
//!
//! Not the whole tree: it would fill a small guest's memory and double its boot time.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::kernel::Unpacked;
use super::tools::Tools;
use crate::{cache, process, ui};

#[rustfmt::skip]
/// Wanted modules; one that a kernel lacks or has built in is left out. Raise [`FORMAT`] when this list changes.
const WANTED: &[&str] = &[
    // disks, real and made up
    "virtio_pci", "virtio_blk", "nvme", "sd_mod", "loop", "nbd", "null_blk", "scsi_debug", "brd", "zram", "ublk_drv",
    "dm-mod", "dm-delay", "dm-flakey", "dm-dust", "raid1",
    // file systems
    "ext4", "xfs", "fuse", "virtiofs", "overlay", "configfs",
    // network devices and traffic control
    "veth", "dummy", "bridge", "tun", "ifb", "ipvlan", "macvlan",
    "sch_netem", "sch_tbf", "sch_ingress", "sch_prio", "sch_htb", "sch_fq", "sch_fq_codel",
    "cls_bpf", "cls_u32", "cls_matchall", "act_bpf", "act_mirred", "act_gact",
    // packet filter
    "nf_tables", "nft_numgen", "nft_counter", "nft_ct", "nft_limit", "nft_log", "nft_hash", "nft_reject_inet", "nft_chain_nat",
    "nf_conntrack", "nf_nat",
    // diagnosis of sockets, watchdogs
    "tcp_diag", "inet_diag", "unix_diag", "tcp_bbr", "softdog", "i6300esb",
];

/// Version of the archive's content.
const FORMAT: u32 = 3;

/// Tables of a module tree that depmod reads besides the modules.
const TABLES: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// The archive for a kernel, made where it is missing.
///
/// # Errors
/// depmod or modprobe fail on the tree, or the archive cannot be written.
pub fn archive(kernel: &Unpacked, tools: &Tools) -> Result<PathBuf> {
    let _lock = cache::lock(&format!("vm/modules-{}", kernel.release))?;
    let folder = cache::folder()?.join("vm").join(format!("modules-{}-{FORMAT}", kernel.release));
    let archive = folder.join("modules.cpio");
    if !archive.is_file() {
        ui::step(&format!("pick modules of {}", kernel.release), || {
            cache::publish(&folder, |part| make(kernel, tools, part))
        })?;
    }
    Ok(archive)
}

fn make(kernel: &Unpacked, tools: &Tools, folder: &Path) -> Result<()> {
    process::output(tools.command("depmod")?.arg("-b").arg(&kernel.root).arg(&kernel.release))?;
    let tree = folder.join("tree");
    let below = Path::new("lib/modules").join(&kernel.release);
    fs::create_dir_all(tree.join(&below))?;
    for table in TABLES {
        let source = kernel.root.join(&below).join(table);
        if source.is_file() {
            fs::copy(source, tree.join(&below).join(table))?;
        }
    }
    for module in pick(kernel, tools)? {
        let relative = module.strip_prefix(&kernel.root).unwrap_or(&module);
        copy(tools, &module, &tree.join(relative))?;
    }
    process::output(tools.command("depmod")?.arg("-b").arg(&tree).arg(&kernel.release))?;
    let mut archive = Archive::new(BufWriter::new(File::create(folder.join("modules.cpio"))?));
    archive.tree(Path::new("/"), &tree, &|_| true)?;
    std::io::Write::flush(&mut archive.finish()?)?;
    cache::remove(&tree)
}

/// The files of all wanted modules and of those that they need.
fn pick(kernel: &Unpacked, tools: &Tools) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for name in WANTED {
        let mut command = tools.command("modprobe")?;
        command.arg("-d").arg(&kernel.root).args(["-S", &kernel.release, "--show-depends", name]);
        let done = process::capture(&mut command)?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let found = text.lines().filter_map(|line| line.strip_prefix("insmod "));
        files.extend(found.filter_map(|line| line.split_whitespace().next()).map(PathBuf::from));
    }
    Ok(files)
}

/// Copies a module, decompressed: the guest would do it at every boot, ten times slower.
fn copy(tools: &Tools, from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a module lies in a folder")?;
    fs::create_dir_all(folder)?;
    if from.extension().is_some_and(|extension| extension == "xz") {
        let out = File::create(to.with_extension(""))?;
        let status = tools.command("xz")?.args(["--decompress", "--stdout"]).arg(from).stdout(out).status()?;
        anyhow::ensure!(status.success(), "xz cannot unpack {}", from.display());
    } else {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}
