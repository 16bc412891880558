//! Rules for hardware, storage and network interfaces. Each group names the source whose messages it follows.

use super::{Rule, Shape::*, Subclass::*};
use crate::{
    kernel_log::subject::Find::*,
    model::fault::{Class::*, Severity::*},
};

const fn hardware(name: &'static str, severity: crate::model::fault::Severity) -> Rule {
    Rule::new(name, "hardware_error", NodeFailure, severity).of(Hardware).shape(Line)
}

const fn disk(name: &'static str) -> Rule {
    Rule::new(name, "disk_error", NodeFailure, Error).of(Hardware).shape(Line)
}

const fn file_system(name: &'static str) -> Rule {
    Rule::new(name, "fs_error", DataCorruption, Critical).shape(Line)
}

/// In the order in which they are tried.
pub const RULES: &[Rule] = &[
    // --- Processor, memory, buses.
    // drivers/acpi/apei/ghes.c, mm/memory-failure.c, drivers/edac/edac_mc.c, arch/x86/kernel/cpu/mce
    hardware("memory_error_uncorrected", Critical).when(&[
        "*[Hardware Error]: event severity: fatal",
        "*[Hardware Error]: event severity: recoverable",
        "*[Hardware Error]: Uncorrected error",
        "*[Hardware Error]: *Uncorrected, software",
        "EDAC MC%: % UE ",
        "EDAC MC%: UE ",
        "Memory failure: 0x*: recovery action for",
        "mce: Uncorrected hardware memory error",
        "mce: * cache error*uncorrected",
    ]),
    hardware("memory_error_corrected", Warning).when(&[
        "*[Hardware Error]: event severity: corrected",
        "*[Hardware Error]: Corrected error",
        "*[Hardware Error]: Machine check events logged",
        "*mce: *Machine check events logged",
        "EDAC MC%: % CE ",
        "EDAC MC%: CE ",
        "*mce: corrected error",
    ]),
    hardware("machine_check", Error)
        .names(Cpu { after: "CPU " })
        .when(&["*[Hardware Error]: CPU %: Machine Check", "*[Hardware Error]: CPU:%"]),
    // drivers/pci/pcie/aer.c
    hardware("pcie_uncorrected", Error).names(Device { after: "pcieport " }).when(&[
        "*AER: *Uncorrect*error",
        "*PCIe Bus Error: severity=Uncorrect",
        "*PCIe Bus Error: severity=Fatal",
    ]),
    hardware("pcie_corrected", Warning).names(Device { after: "pcieport " }).when(&[
        "*AER: *Correct*error*received",
        "*AER: *Correctable error message",
        "*PCIe Bus Error: severity=Correct",
    ]),
    // arch/x86/kernel/nmi.c
    hardware("nmi", Error).when(&[
        "NMI: PCI system error",
        "NMI: IOCK error",
        "Uhhuh. NMI received for unknown reason",
    ]),
    // drivers/iommu/intel/dmar.c, drivers/iommu/amd/iommu.c, arm-smmu-v3
    hardware("iommu_fault", Error).when(&[
        "DMAR: [DMA *fault addr",
        "*AMD-Vi: Event logged [IO_PAGE_FAULT",
        "arm-smmu*: event 0x1* received",
    ]),
    // kernel/irq/spurious.c
    hardware("irq_storm", Warning).when(&["irq %: nobody cared"]),
    // arch/x86/kernel/cpu/mce/therm_throt.c (drivers/thermal/intel), drivers/thermal/thermal_core.c
    hardware("overheated", Critical).when(&["*critical temperature reached"]),
    Rule::new("throttled", "cpu_throttled", PerformanceDegradation, Warning)
        .shape(Line)
        .names(Cpu { after: "CPU" })
        .when(&["*cpu clock throttled", "*emperature above threshold"]),
    // drivers/gpu/drm; NVIDIA's driver
    hardware("gpu_hang", Error).when(&["*GPU HANG: ecode", "NVRM: Xid (", "amdgpu *ring * timeout"]),
    // --- Disks.
    // block/blk-core.c (blk_update_request, bio), block/blk-mq.c; "protection" means the data came back wrong.
    Rule::new("block_protection", "disk_error", DataCorruption, Critical)
        .shape(Line)
        .names(Device { after: "dev " })
        .when(&["*protection error, dev "]),
    disk("block_error").names(Device { after: "dev " }).when(&[
        "*I/O error, dev *, sector",
        "*critical * error, dev ",
        "*timeout error, dev *, sector",
    ]),
    // fs/buffer.c: of a bio-based device (dm) no request fails.
    disk("buffer_error").names(Device { after: "dev " }).when(&["Buffer I/O error on dev"]),
    // drivers/scsi/{sd,scsi_lib,scsi_error,scsi_logging}.c
    disk("scsi_error").names(Device { after: "[" }).when(&[
        "sd *FAILED Result: hostbyte=",
        "sd *Sense Key : Medium Error",
        "sd *Sense Key : Hardware Error",
        "*rejecting I/O to offline device",
        "*Device offlined - not ready after error recovery",
        "scsi *timing out command",
    ]),
    // drivers/ata/libata-eh.c; an empty port's "SATA link down" is no fault.
    disk("ata_error").names(First).when(&[
        "ata%: exception Emask",
        "ata%.%: exception Emask",
        "ata%.%: failed command",
        "ata%.%: disable device",
        "ata%: hard resetting link",
    ]),
    // drivers/nvme/host/{core,pci}.c
    disk("nvme_error").names(Device { after: "nvme " }).when(&[
        "nvme nvme%: I/O *timeout",
        "nvme nvme%: controller is down",
        "nvme nvme%: Abort status",
        "nvme nvme%: Removing after probe failure",
        "nvme nvme%: Device not ready",
        "nvme nvme%: Disabling device after reset failure",
    ]),
    // drivers/block/nbd.c, drivers/scsi/libiscsi.c, scsi_transport_{fc,iscsi}.c
    disk("remote_disk").names(Device { after: "block " }).when(&[
        "block nbd%: Connection timed out",
        "block nbd%: *Receive control failed",
        "*: detected conn error (%",
        "*blocked FC remote port time out",
        "*session recovery timed out after",
    ]),
    // drivers/md/{raid1,raid10,raid5,md}.c
    Rule::new("raid_degraded", "raid_degraded", NodeFailure, Error)
        .of(Hardware)
        .shape(Line)
        .names(Device { after: ":" })
        .when(&[
            "md/raid*Disk failure on",
            "md/raid*Operation continuing on % devices",
            "md/raid*active with % out of %",
            "md: kicking non-fresh",
            "md/raid*not enough operational",
        ]),
    // drivers/md/dm-*.c
    Rule::new("dm_error", "disk_error", NodeFailure, Error).of(Hardware).shape(Line).when(&[
        "device-mapper: *ailing path",
        "device-mapper: thin: *aborting current metadata transaction",
        "device-mapper: thin: *switching pool to",
        "device-mapper: raid: *ailed",
        "device-mapper: snapshots: Invalidating snapshot",
        "device-mapper: *unrecoverable error",
    ]),
    // --- File systems.
    // drivers/md/dm-{verity,integrity,crypt}-target.c: the data are not what was written.
    file_system("data_checksum").when(&[
        "device-mapper: verity: *is corrupted",
        "device-mapper: integrity: *hecksum failed",
        "device-mapper: crypt: *INTEGRITY AEAD ERROR",
        "BTRFS *csum failed",
        "BTRFS *checksum verify failed",
        "XFS (*Metadata CRC error",
    ]),
    // fs/ext4/super.c and others, fs/btrfs/super.c
    file_system("read_only").names(InBrackets).when(&[
        "*Remounting filesystem read-only",
        "*emounting * read-only due to",
        "BTRFS *forced readonly",
        "*Filesystem has been set read-only",
    ]),
    // fs/jbd2/journal.c, fs/jbd/journal.c
    file_system("journal_error").names(Journal).when(&[
        "Aborting journal on device",
        "JBD*: *I/O error",
        "JBD*: Error -%",
        "JBD*: Detected IO errors",
    ]),
    // fs/ext4, fs/fat, fs/xfs, fs/btrfs, fs/f2fs, fs/squashfs, fs/erofs, fs/ntfs3, fs/ocfs2, fs/gfs2
    file_system("fs_error").names(InBrackets).when(&[
        "*-fs error (device ",
        "FAT-fs (*: error",
        "EXT4-fs (*mounting fs with errors",
        "XFS (*orruption",
        "XFS (*metadata I/O error",
        "XFS (*hut*down",
        "XFS (*Internal error",
        "BTRFS critical (device ",
        "BTRFS error (device *: bdev * errs: ",
        "BTRFS error (device *orrupt",
        "BTRFS error (device *: bad tree block",
        "BTRFS error (device *transid verify failed",
        "BTRFS: error (device ",
        "F2FS-fs (*: *inconsisten",
        "F2FS-fs (*: Stopped filesystem",
        "F2FS-fs (*: *orrupt",
        "SQUASHFS error: ",
        "erofs*: *corrupted",
        "gfs2: *fatal: ",
    ]),
    // --- Network interfaces.
    // drivers/net/ethernet/*, drivers/net/phy/phy.c, drivers/net/bonding/bond_main.c
    Rule::new("link_down", "link_down", NodeFailure, Warning).of(Network).shape(Line).names(BeforeColon).when(&[
        "*NIC Link is Down",
        "*NIC * Link is Down",
        "*: Link is Down",
        "*: link is down",
        "*: link down",
        "*link status definitely down",
        "*: Lost carrier",
    ]),
    Rule::new("link_up", "link_up", NodeFailure, Info).of(Network).shape(Line).names(BeforeColon).when(&[
        "*NIC Link is Up",
        "*NIC * Link is Up",
        "*: Link is Up",
        "*link status definitely up",
    ]),
];
