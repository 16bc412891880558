//! Layouts of real kernels, finding tracefs, and refusing what is not a format.

use super::super::fixture::Fixture;
use super::*;

/// The four fields that every tracepoint of every kernel starts with.
const COMMON: &str = "\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
";

fn format(name: &str, fields: &[(&str, u32, u32, u32)]) -> String {
    let lines: String = fields
        .iter()
        .map(|(decl, offset, size, signed)| {
            format!("\tfield:{decl};\toffset:{offset};\tsize:{size};\tsigned:{signed};\n")
        })
        .collect();
    format!("name: {name}\nID: 400\nformat:\n{COMMON}\n{lines}\nprint fmt: \"pid=%d field:x\", REC->pid\n")
}

fn plain(offset: u32, size: u32, signed: bool) -> Option<TraceField> {
    Some(TraceField { offset, size, is_data_loc: false, signed })
}

#[test]
fn mark_victim_before_and_after_it_grew() {
    let old = TraceFormat::parse(&format("mark_victim", &[("int pid", 8, 4, 1)])).expect("5.10.218");
    assert_eq!(old.field("pid"), plain(8, 4, true));
    assert_eq!(old.field("anon_rss"), None);
    assert_eq!(old.field("common_pid"), plain(4, 4, true));

    let new = [
        ("int pid", 8, 4, 1),
        ("__data_loc char[] comm", 12, 4, 0),
        ("unsigned long total_vm", 16, 8, 0),
        ("unsigned long anon_rss", 24, 8, 0),
        ("uid_t uid", 48, 4, 0),
        ("short oom_score_adj", 64, 2, 1),
    ];
    let new = TraceFormat::parse(&format("mark_victim", &new)).expect("5.10.262 and later");
    assert_eq!(new.field("comm"), Some(TraceField { offset: 12, size: 4, is_data_loc: true, signed: false }));
    assert_eq!(new.field("anon_rss"), plain(24, 8, false));
    assert_eq!(new.field("oom_score_adj"), plain(64, 2, true));
}

#[test]
fn tcp_retransmit_with_and_without_family_and_err() {
    let old = [("const void * skaddr", 16, 8, 0), ("__u16 sport", 28, 2, 0), ("__u8 saddr[4]", 32, 4, 0)];
    let old = TraceFormat::parse(&format("tcp_retransmit_skb", &old)).expect("5.10");
    assert_eq!(old.field("saddr"), plain(32, 4, false));
    assert_eq!((old.field("family"), old.field("err")), (None, None));

    let new = [
        ("const void * skaddr", 16, 8, 0),
        ("__u16 family", 32, 2, 0),
        ("__u8 saddr[4]", 34, 4, 0),
        ("__u8 saddr_v6[16]", 42, 16, 0),
        ("int err", 76, 4, 1),
    ];
    let new = TraceFormat::parse(&format("tcp_retransmit_skb", &new)).expect("6.17 and later");
    assert_eq!(new.field("skaddr"), plain(16, 8, false));
    assert_eq!(new.field("family"), plain(32, 2, false));
    assert_eq!(new.field("saddr_v6"), plain(42, 16, false));
    assert_eq!(new.field("err"), plain(76, 4, true));
}

#[test]
fn declarations_of_every_shape() {
    for (declaration, name) in [
        ("int pid", "pid"),
        ("const char *name", "name"),
        ("const void * skaddr", "skaddr"),
        ("__u8 saddr[sizeof(struct sockaddr_in6)]", "saddr"),
        ("u8 hash[4][8]", "hash"),
        ("__data_loc char[] comm", "comm"),
        ("enum skb_drop_reason reason", "reason"),
    ] {
        assert_eq!(declared_name(declaration), Some(name), "{declaration}");
    }
    for declaration in ["", "pid", "]", "int ", "x[3]"] {
        assert_eq!(declared_name(declaration), None, "{declaration:?}");
    }
}

#[test]
fn a_relative_location_is_absent_rather_than_misplaced() {
    let format = format("x", &[("__rel_loc char[] arg", 8, 4, 0)]);
    assert_eq!(TraceFormat::parse(&format).expect("common fields").field("arg"), None);
}

#[test]
fn what_is_not_a_format_is_an_error_that_shows_the_line() {
    for line in
        ["field:int pid; offset:x; size:4; signed:1;", "field:int pid;", "field:int pid; size:4; offset:0; signed:1;"]
    {
        let error = TraceFormat::parse(line).expect_err(line).to_string();
        assert!(error.contains("field:int pid;"), "{error}");
    }
    assert!(matches!(TraceFormat::parse("name: x\n"), Err(TraceError::Format { line }) if line.is_empty()));
}

#[test]
fn tracefs_is_found_by_mount_table_and_by_looking() {
    let both = "\
40 1 0:12 / /sys/kernel/debug/tracing rw - tracefs tracefs rw
41 1 0:12 / /sys/kernel/tracing rw shared:3 - tracefs tracefs rw
";
    let fixture = Fixture::new().file("/proc/self/mountinfo", both);
    assert_eq!(find(fixture.root()), Some(fixture.root().path("/sys/kernel/tracing")));
    let elsewhere =
        Fixture::new().file("/proc/self/mountinfo", "40 1 0:12 / /mnt/trace\\040dir rw - tracefs none rw\n");
    assert_eq!(find(elsewhere.root()), Some(elsewhere.root().path("/mnt/trace dir")));
    let unlisted = Fixture::new().file("/sys/kernel/debug/tracing/events/oom/mark_victim/format", "");
    assert_eq!(find(unlisted.root()), Some(unlisted.root().path("/sys/kernel/debug/tracing")));
    let none = Fixture::new();
    assert_eq!(find(none.root()), None);
    assert!(matches!(mount_if_missing(none.root()), Err(TraceError::NotMounted)));
}

#[test]
fn loading_tells_a_missing_event_from_an_unreadable_one() {
    let fixture = Fixture::new()
        .file("/t/events/oom/mark_victim/format", &format("mark_victim", &[("int pid", 8, 4, 1)]))
        .file("/t/events/odd/dir/format/file", "");
    let tracefs = fixture.root().path("/t");
    assert!(TraceFormat::load(&tracefs, "oom", "mark_victim").is_ok());
    let error = TraceFormat::load(&tracefs, "oom", "nothing").expect_err("absent");
    assert!(error.to_string().contains("oom:nothing"), "{error}");
    assert!(matches!(TraceFormat::load(&tracefs, "odd", "dir"), Err(TraceError::Read { .. })));
}
