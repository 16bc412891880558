//! The rules as a specification: a line of each family in, the rule that must fit out; and lines that look alike and are none.

use std::collections::HashSet;

use super::*;

fn rules() -> Rules {
    Rules::new().unwrap()
}

fn name(text: &str) -> Option<&'static str> {
    rules().find(text.as_bytes()).map(|rule| rule.name)
}

#[test]
fn the_table_is_sound() {
    let all: Vec<_> = RULES.into_iter().flatten().collect();
    assert!(all.len() < 80, "{} rules", all.len());
    let names: HashSet<_> = all.iter().map(|rule| rule.name).collect();
    assert_eq!(names.len(), all.len(), "a name is used twice");
    for rule in all {
        assert!(!rule.patterns.is_empty(), "{} fits nothing", rule.name);
        assert_eq!(rule.class == Class::NodeFailure, rule.subclass.is_some(), "{}", rule.name);
        for whole in rule.patterns {
            assert!(pattern::needle(whole).len() >= 3, "{}: {whole} would be tried on nearly every line", rule.name);
        }
        let tainted = rule.kind == "kernel_warning";
        assert!(!tainted || rule.severity <= Severity::Warning, "{} only taints", rule.name);
    }
}

/// Messages of the kernel's sources with other values, one or more for each family.
#[test]
fn each_family_is_known() {
    for (text, want) in [
        ("BUG: KASAN: slab-use-after-free in foo+0x1/0x2", "kasan"),
        ("BUG: KASAN: null-ptr-deref in foo+0x1/0x2", "kasan_null"),
        ("BUG: KFENCE: memory corruption in foo+0x1/0x2", "kfence"),
        ("UBSAN: array-index-out-of-bounds in mm/x.c:1:2", "ubsan"),
        ("refcount_t: underflow; use-after-free.", "refcount"),
        ("WARNING: CPU: 3 PID: 4 at lib/refcount.c:28 refcount_warn_saturate+0x1/0x2", "refcount"),
        ("list_del corruption, ffff888000000000->next is LIST_POISON1", "list_corruption"),
        ("BUG kmalloc-64 (Not tainted): Poison overwritten", "slab_corruption"),
        ("INFO: Freed in foo+0x1/0x2 age=3 cpu=0 pid=12", "slab_corruption"),
        ("BUG: Bad page state in process dd  pfn:12345", "bad_page"),
        ("BUG: Bad rss-counter state mm:00000000 type:MM_ANONPAGES val:1", "bad_page"),
        ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", "memory_leak"),
        ("INFO: task dd:12 blocked for more than 120 seconds.", "hung_task"),
        ("INFO: task dd:12 blocked in I/O wait for more than 122 seconds.", "hung_task"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu_stall"),
        ("rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 1-... } 21 jiffies", "rcu_stall"),
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [dd:12]", "soft_lockup"),
        ("NMI watchdog: Watchdog detected hard LOCKUP on cpu 2", "hard_lockup"),
        ("BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 31s!", "workqueue_lockup"),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "null_dereference"),
        ("Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008", "null_dereference"),
        ("BUG: unable to handle page fault for address: ffffc90000000000", "bad_access"),
        ("Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP", "oops"),
        ("general protection fault, maybe for address 0x1: 0000 [#1] SMP", "oops"),
        ("stack segment: 0000 [#1] PREEMPT SMP", "oops"),
        ("Internal error: Oops: 0000000096000004 [#1] SMP", "oops"),
        ("kernel BUG at fs/inode.c:12!", "kernel_bug"),
        ("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "panic"),
        ("Kernel panic - not syncing: Fatal machine check", "panic_hardware"),
        ("BUG: scheduling while atomic: dd/12/0x00000002", "atomic_sleep"),
        ("WARNING: possible recursive locking detected", "lockdep"),
        ("[ INFO: possible recursive locking detected ]", "lockdep"),
        ("WARNING: Nested lock was not taken", "lockdep"),
        ("WARNING: CPU: 1 PID: 2 at net/core/dev.c:3 foo+0x1/0x2", "warning"),
        ("WARNING: at net/core/dev.c:3 foo+0x1/0x2()", "warning"),
        ("WARNING: net/core/dev.c:3 at foo+0x1/0x2, CPU#1: dd/12", "warning"),
        ("e1000 0000:00:03.0 eth0: NETDEV WATCHDOG: CPU: 0: transmit queue 0 timed out 5000 ms", "tx_timeout"),
        ("{1}[Hardware Error]: event severity: fatal", "memory_error_uncorrected"),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0", "memory_error_corrected"),
        ("EDAC MC0: 1 UE memory read error on CPU_SrcID#0", "memory_error_uncorrected"),
        ("mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 5: be00000000800400", "machine_check"),
        ("pcieport 0000:00:1c.0: AER: Multiple Corrected error received: 0000:01:00.0", "pcie_corrected"),
        (
            "pcieport 0000:00:1c.0: AER: Uncorrectable (Non-Fatal) error message received from 0000:01:00.0",
            "pcie_uncorrected",
        ),
        ("mce: CPU3: Core temperature above threshold, cpu clock throttled (total events = 1)", "throttled"),
        ("blk_update_request: I/O error, dev sda, sector 8 op 0x0:(READ) flags 0x0", "block_error"),
        ("critical medium error, dev sdb, sector 4660 op 0x0:(READ) flags 0x0", "block_error"),
        ("Buffer I/O error on dev dm-0, logical block 1, lost async page write", "buffer_error"),
        ("Out of memory and no killable processes...", "oom_no_victim"),
        ("sd 0:0:0:0: [sda] tag#0 FAILED Result: hostbyte=DID_OK driverbyte=DRIVER_OK", "scsi_error"),
        ("ata1.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x6 frozen", "ata_error"),
        ("nvme nvme0: I/O 12 QID 3 timeout, aborting", "nvme_error"),
        (
            "nvme nvme0: I/O tag 12 (100c) opcode 0x2 (Read) QID 3 timeout, aborting req_op:READ(0) size:4096",
            "nvme_error",
        ),
        ("md/raid1:md0: Disk failure on sda1, disabling device.", "raid_degraded"),
        ("md/raid:md0: raid level 5 active with 2 out of 3 devices, algorithm 2", "raid_degraded"),
        ("device-mapper: multipath: 253:0: Failing path 8:16.", "dm_error"),
        ("EXT4-fs error (device sda1): ext4_lookup:1: inode #2: comm ls: deleted inode referenced: 12", "fs_error"),
        ("EXT4-fs (sda1): Remounting filesystem read-only", "read_only"),
        ("XFS (sda1): Corruption of in-memory data detected.  Shutting down filesystem", "fs_error"),
        (
            "BTRFS warning (device sda1): csum failed root 5 ino 257 off 0 csum 0x1 expected csum 0x2 mirror 1",
            "data_checksum",
        ),
        ("e1000: eth0 NIC Link is Down", "link_down"),
        ("Memory cgroup out of memory: Killed process 12 (dd) total-vm:1kB", "memcg_oom_kill"),
        ("Out of memory: Killed process 12 (dd) total-vm:1kB", "oom_kill"),
        ("dd: page allocation failure: order:4, mode:0xcc0(GFP_KERNEL)", "page_allocation"),
        ("nf_conntrack: nf_conntrack: table full, dropping packet", "table_full"),
        ("neighbour: arp_cache: neighbor table overflow!", "table_full"),
        ("TCP: out of memory -- consider tuning tcp_mem", "tcp_memory"),
        ("TCP: request_sock_TCP: Possible SYN flooding on port 80. Sending cookies.", "syn_flood"),
        (
            "clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable because the skew is too large:",
            "clock_unstable",
        ),
        ("dd[12]: segfault at 0 ip 0000000000000001 sp 0000000000000002 error 4 in dd[1+2]", "user_fault"),
        ("traps: dd[12] general protection fault ip:1 sp:2 error:0 in dd[1+2]", "user_fault"),
    ] {
        assert_eq!(name(text), Some(want), "{text}");
    }
}

#[test]
fn words_of_boot_and_of_programs_are_no_fault() {
    for text in [
        "Kernel command line: panic=-1 BUG: KASAN: x",
        "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on, data leaks possible via Spectre v2 BHB attacks!",
        "mce: CPU supports 10 MCE banks",
        "EDAC MC: Ver: 3.0.0",
        "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
        "microcode: Current revision: 0x00000001",
        "PCI: Using E820 reservations for host bridge windows",
        "ata1: SATA link down (SStatus 0 SControl 300)",
        "md/raid:md0: raid level 5 active with 3 out of 3 devices, algorithm 2",
        "pcieport 0000:00:01.0: AER: enabled with IRQ 24",
        "INFO: lockdep is turned off.",
        "BUG kmalloc-64 (Tainted: G    B): kasan: bad access detected",
        "WARNING: /etc/motd is missing",
        "warning: `dd' uses wireless extensions which will stop working for Wi-Fi 7 hardware; use nl80211",
        "audit: type=1400 msg=\"kernel BUG at x\"",
        "hung_task: sysctl set to 120",
        "x86/mm: Checked W+X mappings: passed, no W+X pages found.",
        "",
    ] {
        assert_eq!(name(text), None, "{text}");
    }
}

#[test]
fn a_line_is_looked_at_only_so_far() {
    let mut long = vec![b'x'; 64 << 10];
    long.extend_from_slice(b"I/O error, dev sda, sector 1");
    assert!(rules().find(&long).is_none());
    assert!(rules().find(&[0xff; 70]).is_none());
}
