//! Folding as a specification: lines in, how many faults and which out; with faults that real kernels printed.

use proptest::prelude::*;

use super::*;
use crate::kernel_log::{console, record};

fn folder() -> Folder {
    Folder::new(Rules::new().unwrap())
}

/// All ended reports and all facts, in the order in which they became known.
fn fold(text: &str) -> Vec<Verdict> {
    let mut folder = folder();
    let mut verdicts = Vec::new();
    for line in text.lines() {
        for line in console::lines(line.as_bytes()) {
            let told = folder.push(&line);
            verdicts.extend(told.ended.into_iter().chain(told.fact));
        }
    }
    verdicts.extend(folder.finish());
    verdicts
}

fn names(text: &str) -> Vec<&'static str> {
    fold(text).into_iter().map(|verdict| verdict.rule).collect()
}

#[test]
fn an_oops_is_one_fault_with_its_task_and_the_panic_it_led_to() {
    let verdicts = fold(
        "[    5.000000] BUG: kernel NULL pointer dereference, address: 0000000000000008\n\
         [    5.000001] Oops: 0000 [#1] PREEMPT SMP\n\
         [    5.000002] CPU: 1 PID: 77 Comm: dd Not tainted 6.1.0\n\
         [    5.000003] ---[ end trace 0000000000000000 ]---\n\
         [    5.000004] Kernel panic - not syncing: Fatal exception\n",
    );
    let [verdict] = verdicts[..] else { panic!("{verdicts:?}") };
    assert_eq!((verdict.rule, verdict.lines, verdict.heads, verdict.panicked), ("null_dereference", 5, 3, true));
    assert_eq!(verdict.first_ns, 5_000_000_000);
    assert_eq!(verdict.subject.unwrap().number, Some(77));
}

#[test]
fn a_detail_gives_a_vague_report_its_name() {
    let warning = "[    1.000000] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2\n";
    let detail = "[    1.000001] refcount_t: underflow; use-after-free.\n";
    let fault = fold(&format!("{warning}{detail}"));
    assert_eq!((fault.len(), fault[0].rule, fault[0].class), (1, "refcount", Class::DataCorruption));
    assert_eq!(names(&format!("{warning}{}{detail}", "[    1.000000] x\n".repeat(20))), ["warning", "refcount"]);
}

#[test]
fn a_worse_fault_within_a_report_is_its_own() {
    assert_eq!(
        names(
            "[    1.000000] WARNING: held lock freed!\n[    1.000001] x\n[    1.000002] BUG: KASAN: use-after-free in f\n"
        ),
        ["lockdep", "kasan"]
    );
    // The other way round it is an echo.
    assert_eq!(
        names("[    1.000000] BUG: KASAN: use-after-free in f\n[    1.000001] WARNING: held lock freed!\n"),
        ["kasan"]
    );
}

#[test]
fn a_warning_that_panicked_stays_a_warning_by_class() {
    let fault =
        fold("WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2\nKernel panic - not syncing: panic_on_warn set ...\n")[0];
    assert_eq!((fault.rule, fault.severity, fault.panicked), ("warning", Severity::Warning, true));
    let alone = fold("Kernel panic - not syncing: No working init found.\n")[0];
    assert_eq!((alone.rule, alone.severity, alone.panicked), ("panic", Severity::Critical, true));
}

#[test]
fn a_report_ends_by_silence_by_length_and_after_its_end_mark() {
    let warning = |at: u32| format!("[{at:5}.000000] WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2\n");
    assert_eq!(names(&format!("{}{}", warning(1), warning(2))), ["warning"]);
    assert_eq!(names(&format!("{}{}", warning(1), warning(20))), ["warning", "warning"]);
    assert_eq!(
        names(&format!("{}[    1.1] x\n[    1.000001] ---[ end trace 0 ]---\n{}", warning(1), warning(2))),
        ["warning", "warning"]
    );
    let long = format!("{}{}{}", warning(1), "[    2.000000] x\n".repeat(1100), warning(3));
    assert_eq!(fold(&long).iter().map(|verdict| verdict.lines).collect::<Vec<_>>(), [1000, 1]);
}

#[test]
fn a_flood_of_facts_is_one_verdict_per_subject_and_interval() {
    let line = |at: u32, dev: &str| format!("[{at:5}.000000] I/O error, dev {dev}, sector 1 op 0x0:(READ)\n");
    let text = [line(1, "sda"), line(1, "sda"), line(2, "sdb"), line(2, "sda"), line(12, "sda")].concat();
    let seen: Vec<_> =
        fold(&text).iter().map(|fact| (fact.subject.unwrap().name.as_bytes().to_vec(), fact.lines)).collect();
    assert_eq!(seen, [(b"sda".to_vec(), 1), (b"sdb".to_vec(), 1), (b"sda".to_vec(), 3)]);
}

#[test]
fn a_fact_within_a_report_stands_alone() {
    let text = "[    1.000000] INFO: task dd:7 blocked for more than 120 seconds.\n\
                [    1.000001] I/O error, dev sda, sector 1\n[    1.000002] x\n";
    let verdicts = fold(text);
    assert_eq!(verdicts.iter().map(|v| (v.rule, v.lines)).collect::<Vec<_>>(), [("block_error", 1), ("hung_task", 3)]);
}

#[test]
fn a_boot_banner_is_a_fault_only_in_a_running_kernel() {
    let banner = "[    0.000000] Linux version 6.1.0 (a@b)\n";
    assert_eq!(names(banner), Vec::<&str>::new());
    assert_eq!(names(&format!("[   30.000000] eth0: x\n{banner}")), ["reboot"]);
}

#[test]
fn a_program_that_writes_to_the_log_says_nothing() {
    assert_eq!(names("<12>[    1.000000] BUG: KASAN: use-after-free in f\n"), Vec::<&str>::new());
}

#[test]
fn a_verdict_is_begun_with_its_first_line() {
    let mut folder = folder();
    let told = folder.push(&Line { text: b"INFO: task dd:7 blocked for more than 120 seconds.", ..Line::default() });
    let begun = told.begun.unwrap();
    assert_eq!((begun.rule, begun.subject.unwrap().number, told.ended), ("hung_task", Some(7), None));
}

/// Any bytes, in any cut, must go through.
#[test]
fn nothing_panics() {
    let mut folder = folder();
    let mut state = 1u64;
    let words: [&[u8]; 12] = [
        b"[    1.000000]",
        b"<6>",
        b"BUG: ",
        b"I/O error, dev ",
        b",",
        b";",
        b"\n",
        b"\\x0a",
        b"[",
        b"** 1 printk",
        b"task :",
        b"\xff\0",
    ];
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(words[(state >> 33) as usize % words.len()]);
            bytes.push((state >> 40) as u8);
        }
        crate::kernel_log::exercise(&mut folder, &bytes);
    }
    for long in [vec![b'['; 64 << 10], vec![b'\\'; 64 << 10], vec![0xff; 64 << 10], b"6,1,1,-;".repeat(8 << 10)] {
        crate::kernel_log::exercise(&mut folder, &long);
    }
}

/// The verdicts of a recorded `/dev/kmsg`: rule, severity and what is ill.
fn of_records(log: &str) -> Vec<(&'static str, String)> {
    let mut folder = folder();
    let mut sequence = record::Sequence::default();
    let mut verdicts = Vec::new();
    for line in log.lines().filter(|line| !line.starts_with(' ')) {
        let record = record::parse(line.as_bytes()).unwrap();
        sequence.observe(record.seq);
        let told = folder.push(&Line::of_record(&record, record.text));
        verdicts.extend(told.ended.into_iter().chain(told.fact));
    }
    verdicts.extend(folder.finish());
    let name = |verdict: Verdict| {
        verdict.subject.map(|subject| String::from_utf8_lossy(subject.name.as_bytes()).into_owned()).unwrap_or_default()
    };
    verdicts.into_iter().map(|verdict| (verdict.rule, name(verdict))).collect()
}

/// What Debian's kernel 7.3 said when faults were made in a VM, and nothing but that.
#[test]
fn faults_of_a_real_kernel_are_told() {
    let told = of_records(include_str!("../fixtures/faults-7.3.kmsg"));
    let want = [
        ("scsi_error", "sda"),
        ("block_error", "sda"),
        ("memcg_oom_kill", "dd"),
        ("buffer_error", "dm-0"),
        ("journal_error", "dm-0"),
        ("fs_error", "dm-0"),
        ("read_only", "dm-0"),
        ("hung_task", "dd"),
    ];
    assert_eq!(told, want.map(|(rule, name)| (rule, name.to_owned())));
}

/// Boot, modules and ordinary work of Debian's kernel 6.12.
#[test]
fn a_clean_log_of_a_real_kernel_tells_nothing() {
    assert_eq!(of_records(include_str!("../fixtures/clean-6.12.kmsg")), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_go_through(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut folder = folder();
        let lines = bytes.split(|&byte| byte == b'\n').count() * 200;
        prop_assert!(crate::kernel_log::exercise(&mut folder, &bytes) <= lines);
    }

    /// A record written as the kernel writes it reads back, escapes and all.
    #[test]
    fn a_record_reads_back(priority in 0u16..256, seq: u64, time_us: u64, text in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = format!("{priority},{seq},{time_us},-;").into_bytes();
        for &byte in &text {
            if !(b' '..127).contains(&byte) || byte == b'\\' {
                bytes.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            } else {
                bytes.push(byte);
            }
        }
        bytes.extend_from_slice(b"\n DEVICE=n3\n");
        let read = record::parse(&bytes).unwrap();
        prop_assert_eq!((read.facility * 8 + u16::from(read.level), read.seq, read.time_us), (priority, seq, time_us));
        prop_assert_eq!(read.value("DEVICE"), Some(&b"n3"[..]));
        let mut buffer = [0; 300];
        prop_assert_eq!(record::unescape(read.text, &mut buffer), &text[..]);
    }

    /// Cutting a log anywhere neither panics nor invents a fault that its lines do not hold.
    #[test]
    fn a_torn_log_goes_through(cut in 0usize..22_000) {
        let log = include_str!("../fixtures/faults-7.3.kmsg").as_bytes();
        let mut folder = folder();
        for line in log[..cut.min(log.len())].split(|&byte| byte == b'\n') {
            crate::kernel_log::exercise(&mut folder, line);
        }
        let clean = include_str!("../fixtures/clean-6.12.kmsg").as_bytes();
        for line in clean[..cut.min(clean.len())].split(|&byte| byte == b'\n') {
            prop_assert_eq!(crate::kernel_log::exercise(&mut folder, line), 0);
        }
    }
}
