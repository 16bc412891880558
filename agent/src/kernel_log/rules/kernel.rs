//! Rules for faults of the kernel itself. Each group names the source whose messages it follows.

use super::{Rule, Shape::*, Subclass::*};
use crate::{
    kernel_log::subject::Find::*,
    model::fault::{Class::*, Severity::*},
};

/// In the order in which they are tried.
pub const RULES: &[Rule] = &[
    // --- What sanitizers and consistency checks found.
    // mm/kasan/report.c. A null dereference under KASAN is a crash, everything else wrote or read foreign memory.
    Rule::new("kasan_null", "kernel_oops", NodeFailure, Critical).of(Software).when(&["BUG: KASAN: null-ptr-deref"]),
    Rule::new("kasan", "memory_corruption", DataCorruption, Critical).when(&["BUG: KASAN: "]),
    // mm/kfence/report.c
    Rule::new("kfence", "memory_corruption", DataCorruption, Critical).when(&["BUG: KFENCE: "]),
    // mm/kmsan/report.c, kernel/kcsan/report.c, lib/ubsan.c: a bug was found, nothing is known to be broken.
    Rule::new("kmsan", "kernel_warning", PerformanceDegradation, Warning).when(&["BUG: KMSAN: "]),
    Rule::new("kcsan", "kernel_warning", PerformanceDegradation, Warning).when(&["BUG: KCSAN: "]),
    Rule::new("ubsan", "kernel_warning", PerformanceDegradation, Warning).when(&["UBSAN: * in "]),
    // lib/refcount.c; the file name covers kernels whose text follows the WARNING line.
    Rule::new("refcount", "memory_corruption", DataCorruption, Critical)
        .shape(Detail)
        .when(&["refcount_t: ", "WARNING: *lib/refcount.c:%"]),
    // lib/list_debug.c
    Rule::new("list_corruption", "memory_corruption", DataCorruption, Critical).shape(Detail).when(&[
        "list_del corruption",
        "list_add corruption",
        "kernel BUG at lib/list_debug.c",
    ]),
    // mm/slub.c (slab_bug, print_tracking), mm/slab.c. Where messages were dropped the object's history is all that is left.
    Rule::new("slab_corruption", "memory_corruption", DataCorruption, Critical).when(&[
        "BUG *ainted*): ",
        "Slab corruption",
        "slab error in ",
        "INFO: Freed in * age=% cpu=%",
        "INFO: Allocated in * age=% cpu=%",
    ]),
    // mm/page_alloc.c (bad_page), mm/memory.c (print_bad_pte), kernel/fork.c (check_mm)
    Rule::new("bad_page", "memory_corruption", DataCorruption, Critical).names(PidNamed { after: "in process " }).when(
        &[
            "BUG: Bad page ",
            "BUG: Bad rss-counter state",
            "BUG: non-zero pgtables_bytes",
            "swap_info_get: Bad swap",
            "get_swap_device: Bad swap",
        ],
    ),
    // mm/kmemleak.c
    Rule::new("memory_leak", "memory_leak", ResourceExhaustion, Warning).when(&[
        "BUG: memory leak",
        "unreferenced object 0x",
        "kmemleak: % new suspected memory leak",
    ]),
    // --- What stopped.
    // kernel/hung_task.c
    Rule::new("hung_task", "task_hang", ServiceUnavailability, Error)
        .names(CommPid { after: "task ", until: &[" blocked ", " can't die "] })
        .when(&["INFO: task *blocked *for more than %", "INFO: task * can't die for more than %"]),
    // kernel/rcu/tree_stall.h, kernel/rcu/tasks.h
    Rule::new("rcu_stall", "cpu_stall", ServiceUnavailability, Error).names(Cpu { after: "CPU " }).when(&[
        "*INFO: rcu*detected*stall",
        "*rcu*kthread starved for",
        "*rcu*kthread timer wakeup didn't happen",
    ]),
    // kernel/watchdog.c
    Rule::new("soft_lockup", "cpu_stall", ServiceUnavailability, Error)
        .names(CommPid { after: "[", until: &["]"] })
        .when(&["*BUG: soft lockup - CPU#%"]),
    // kernel/watchdog_perf.c (watchdog_hld.c), kernel/watchdog_buddy.c
    Rule::new("hard_lockup", "cpu_stall", ServiceUnavailability, Critical)
        .names(Cpu { after: "on cpu " })
        .when(&["*Watchdog detected hard LOCKUP on cpu"]),
    // kernel/workqueue.c
    Rule::new("workqueue_lockup", "cpu_stall", ServiceUnavailability, Error)
        .names(Cpu { after: "cpus=" })
        .when(&["BUG: workqueue lockup - pool"]),
    // --- What broke.
    // arch/x86/mm/fault.c, arch/arm{,64}/mm/fault.c, arch/riscv/mm/fault.c, arch/powerpc/mm/fault.c
    Rule::new("null_dereference", "kernel_oops", NodeFailure, Critical).of(Software).when(&[
        "BUG: unable to handle kernel NULL pointer dereference",
        "BUG: kernel NULL pointer dereference",
        "BUG: Kernel NULL pointer dereference",
        "Unable to handle kernel NULL pointer dereference",
    ]),
    Rule::new("bad_access", "memory_corruption", DataCorruption, Critical).when(&[
        "BUG: unable to handle kernel paging request",
        "BUG: unable to handle page fault",
        "BUG: Unable to handle kernel data access",
        "Unable to handle kernel paging request",
        "Unable to handle kernel read from unreadable memory",
        "Unable to handle kernel write to read-only memory",
        "Unable to handle kernel execut",
    ]),
    Rule::new("bad_access_other", "kernel_oops", NodeFailure, Critical)
        .of(Software)
        .when(&["BUG: unable to handle kernel", "Unable to handle kernel "]),
    // arch/x86/mm/fault.c and kernel/dumpstack.c, arch/arm64/kernel/traps.c
    Rule::new("stack_overflow", "kernel_oops", NodeFailure, Critical).of(Software).when(&[
        "BUG: *stack guard page was hit",
        "*kernel stack overflow",
        "Insufficient stack space to handle exception",
        "*Thread overran stack, or stack corrupted",
    ]),
    // arch/x86/kernel/doublefault_32.c, traps.c
    Rule::new("double_fault", "kernel_oops", NodeFailure, Critical)
        .of(Software)
        .when(&["PANIC: double fault", "traps: PANIC: double fault"]),
    // arch/arm/mm/{fault,alignment}.c, arch/arm64/kernel/traps.c, arch/mips
    Rule::new("unhandled_fault", "kernel_oops", NodeFailure, Critical).of(Software).when(&[
        "Unhandled fault: ",
        "Unhandled prefetch abort: ",
        "Alignment trap: not handling instruction",
        "Bad mode in * handler",
        "*Unhandled * exception in kernel mode",
    ]),
    // Every BUG() and BUG_ON(): lib/bug.c, arch/*/kernel/traps.c
    Rule::new("kernel_bug", "kernel_bug", NodeFailure, Critical).of(Software).shape(Vague).when(&[
        "kernel BUG at ",
        "Kernel BUG at ",
        "BUG: failure at ",
        "*: panicked at ",
    ]),
    // arch/x86/kernel/dumpstack.c (die): "%s: %04lx [#%d]"; arm, arm64, riscv, mips, powerpc alike.
    Rule::new("oops", "kernel_oops", NodeFailure, Critical).of(Software).shape(Vague).when(&[
        "Oops: ",
        "Oops - ",
        "Oops[#%]",
        "Internal error: ",
        "*: * [#%]",
        "general protection fault: ",
        "divide error: ",
    ]),
    // fs/super.c, fs/dcache.c: objects outlive their file system.
    Rule::new("busy_unmount", "kernel_bug", NodeFailure, Critical)
        .of(Software)
        .when(&["VFS: Busy inodes after unmount", "BUG: Dentry *still in use"]),
    // drivers of secure worlds and firmware that report their own death.
    Rule::new("firmware_crash", "firmware_crash", NodeFailure, Critical).of(Software).when(&[
        "trusty: panic ",
        "*: firmware crashed! (guid",
        "*Microcode SW error detected",
    ]),
    // kernel/panic.c; a fatal machine check is the hardware's.
    Rule::new("panic_hardware", "panic", NodeFailure, Critical).of(Hardware).shape(Panic).when(&[
        "Kernel panic - not syncing: *achine check",
        "Kernel panic - not syncing: NMI",
        "Kernel panic - not syncing: Fatal hardware error",
    ]),
    Rule::new("panic", "panic", NodeFailure, Critical)
        .of(Software)
        .shape(Panic)
        .when(&["Kernel panic - not syncing", "Kernel panic: "]),
    // A banner of init/version.c or of the boot loader's stub in the middle of a log: nobody said good-bye.
    Rule::new("reboot", "reboot", NodeFailure, Critical).of(Software).shape(Boot).when(&[
        "Linux version %.%",
        "*Booting the kernel",
        "Booting Linux on physical CPU",
    ]),
    // --- What is suspicious: the kernel goes on, tainted.
    // kernel/sched/core.c, lib/smp_processor_id.c, kernel/workqueue.c
    Rule::new("atomic_sleep", "kernel_warning", PerformanceDegradation, Warning).when(&[
        "BUG: sleeping function called from invalid context",
        "BUG: scheduling while atomic",
        "BUG: using *in preemptible",
        "BUG: workqueue leaked",
        "BUG: assuming non migratable context",
        "BUG: assuming atomic context",
    ]),
    // kernel/locking/spinlock_debug.c, rtmutex.c
    Rule::new("spinlock", "kernel_warning", PerformanceDegradation, Warning)
        .names(CommSlashPid { after: ", " })
        .when(&["BUG: spinlock * on CPU#%", "BUG: rwlock* on CPU#%"]),
    // kernel/locking/lockdep.c, kernel/rcu/update.c. Before 4.13 the words stand in brackets: "[ INFO: .. ]".
    Rule::new("lockdep", "kernel_warning", PerformanceDegradation, Warning).when(&[
        "*possible circular locking dependency detected",
        "*possible recursive locking detected",
        "*possible irq lock inversion dependency detected",
        "*lock order detected",
        "*inconsistent lock state",
        "*inconsistent {",
        "*bad unlock balance detected",
        "*bad contention detected",
        "*held lock freed!",
        "*still has locks held!",
        "*lock held when returning to user space",
        "*ested lock was not taken",
        "*Invalid wait context",
        "*suspicious RCU usage",
        "*trying to register non-static key",
        "BUG: MAX_* too low!",
        "BUG: key *not in .data",
        "BUG: key *has not been registered",
        "DEBUG_LOCKS_WARN_ON(",
    ]),
    // net/sched/sch_generic.c; the watchdog line stands within the WARNING, from 6.9 on alone.
    Rule::new("tx_timeout", "link_stall", NodeFailure, Error)
        .of(Network)
        .shape(Detail)
        .names(Interface { after: "NETDEV WATCHDOG: " })
        .when(&["*NETDEV WATCHDOG: * transmit queue % timed out"]),
    // kernel/panic.c (__warn): "WARNING: CPU: %d PID: %d at", of old "WARNING: at file:line", from 6.18 on
    // "WARNING: file:line at"; and x86's unwinder. "WARNING: " alone is no rule: programs and drivers say it of
    // obsolete options, and only WARN() taints.
    Rule::new("warning", "kernel_warning", PerformanceDegradation, Warning).shape(Vague).when(&[
        "WARNING: CPU: %",
        "WARNING: at *:%",
        "WARNING: *:% at ",
        "WARNING: kernel stack *has bad ",
    ]),
];
