//! BTF of small made-up kernels, of the running one, and of garbage.

use proptest::prelude::*;

use super::builder::{BITFIELDS, Builder};
use super::*;

fn parse(builder: &Builder) -> Btf {
    Btf::parse(builder.file(24)).expect("valid BTF")
}

fn at(offset: u32, size: u32) -> Option<MemberOffset> {
    Some(MemberOffset { offset, size })
}

/// `struct sock { const volatile struct { u32 tag; union { u64 pair; struct { u32 daddr; u32 saddr; } }; } common;
/// pid_t ids[4]; struct { u64 count[3]; } stats[2]; struct sock *next; u32 flexible[]; }`
fn sock() -> Builder {
    let mut b = Builder::new();
    let (word, long) = (b.int("u32", 4, false), b.int("u64", 8, false));
    let halves = b.strukt("", 8, &[("daddr", word, 0), ("saddr", word, 32)]);
    let union = b.composite(Kind::UNION, "", false, 8, &[("pair", long, 0), ("", halves, 0)]);
    let common = b.strukt("sock_common", 16, &[("tag", word, 0), ("", union, 64)]);
    let volatile = b.refer(Kind::VOLATILE, "", common);
    let constant = b.refer(Kind::CONST, "", volatile);
    let pid = b.refer(Kind::TYPEDEF, "pid_t", word);
    let ids = b.array(pid, 4);
    let counts = b.array(long, 3);
    let stat = b.strukt("", 24, &[("count", counts, 0)]);
    let stats = b.array(stat, 2);
    let flexible = b.array(word, 0);
    let pointer = b.refer(Kind::PTR, "", 16);
    assert_eq!(pointer, 14);
    b.refer(Kind::TYPE_TAG, "rcu", pointer);
    let sock = b.strukt(
        "sock",
        88,
        &[
            ("common", constant, 0),
            ("ids", ids, 128),
            ("stats", stats, 256),
            ("next", 15, 640),
            ("flexible", flexible, 704),
        ],
    );
    assert_eq!(sock, 16);
    b
}

#[test]
fn members_through_every_kind_of_nesting() {
    let btf = parse(&sock());
    for (path, expected) in [
        ("common", at(0, 16)),
        ("common.tag", at(0, 4)),
        ("common.pair", at(8, 8)),
        ("common.saddr", at(12, 4)),
        ("ids", at(16, 16)),
        ("ids[3]", at(28, 4)),
        ("stats[1]", at(56, 24)),
        ("stats[1].count", at(56, 24)),
        ("stats[1].count[2]", at(72, 8)),
        ("next", at(80, 8)),
        ("flexible[5]", at(108, 4)),
        ("ids[4]", None),
        ("ids[0][0]", None),
        ("ids[", None),
        ("ids[x]", None),
        ("ids[0]x", None),
        ("common[0]", None),
        ("common.", None),
        ("", None),
        ("stats.count", None),
        ("next.common", None),
        ("absent", None),
    ] {
        assert_eq!(btf.member_offset("sock", path), expected, "{path:?}");
    }
    assert_eq!(btf.member_offset("absent", "tag"), None);
    assert_eq!((btf.struct_size("sock"), btf.struct_size("absent")), (Some(88), None));
    assert!(btf.has_struct("sock_common") && !btf.has_struct("pid_t") && btf.typedef_exists("pid_t"));
}

#[test]
fn a_header_of_any_length_is_skipped_by_its_own_word() {
    let builder = sock();
    for hdr_len in [24, 32, 48] {
        let btf = Btf::parse(builder.file(hdr_len)).expect("valid BTF");
        assert_eq!(btf.member_offset("sock", "common.saddr"), at(12, 4), "header of {hdr_len}");
    }
}

#[test]
fn indexes_multiply_per_dimension() {
    let mut b = Builder::new();
    let byte = b.int("u8", 1, false);
    let row = b.array(byte, 5);
    let grid = b.array(row, 3);
    b.strukt("s", 16, &[("grid", grid, 8)]);
    let btf = parse(&b);
    assert_eq!(btf.member_offset("s", "grid[2][4]"), at(15, 1));
    assert_eq!(btf.member_offset("s", "grid[2]"), at(11, 5));
    assert_eq!(btf.member_offset("s", "grid[3][0]"), None);
}

#[test]
fn bitfields_are_refused_in_both_encodings() {
    let mut b = Builder::new();
    let word = b.int("u32", 4, false);
    let narrow = b.raw("", Kind::INT.0, (false, 0), 4, &[3]);
    let flagged = [("whole", word, 0), ("bits", word, 3 << 24 | 32), ("odd", word, 33)];
    b.composite(Kind::STRUCT, "new", BITFIELDS, 8, &flagged);
    b.strukt("old", 8, &[("whole", word, 0), ("bits", narrow, 32)]);
    let btf = parse(&b);
    for strukt in ["new", "old"] {
        assert_eq!(btf.member_offset(strukt, "whole"), at(0, 4));
        assert_eq!(btf.member_offset(strukt, "bits"), None);
    }
    assert_eq!(btf.member_offset("new", "odd"), None);
    assert_eq!(btf.bitfield("new", "bits"), Some(Bitfield { offset: 4, shift: 0, bits: 3 }));
    assert_eq!((btf.bitfield("new", "whole"), btf.bitfield("old", "bits")), (None, None));
}

#[test]
fn two_types_of_one_name_must_agree() {
    let mut b = Builder::new();
    let word = b.int("u32", 4, false);
    b.strukt("state", 8, &[("same", word, 0), ("moved", word, 32)]);
    b.strukt("state", 12, &[("same", word, 0), ("moved", word, 64), ("only", word, 32)]);
    let btf = parse(&b);
    assert_eq!(btf.member_offset("state", "same"), at(0, 4));
    assert_eq!(btf.member_offset("state", "moved"), None);
    assert_eq!(btf.member_offset("state", "only"), at(4, 4));
    assert_eq!(btf.struct_size("state"), None);
}

#[test]
fn enums_of_both_widths_and_signs() {
    let mut b = Builder::new();
    b.enumeration("reason", false, &[("NONE", 0), ("LAST", -1)]);
    b.enumeration("", false, &[("MM_FILEPAGES", 0), ("MM_ANONPAGES", 1)]);
    b.enum64("wide", &[("HIGH", 1 << 40), ("MINUS", -2)]);
    let old = parse(&b);
    assert_eq!(old.enum_value("reason", "LAST"), Some(-1), "an old encoder states no sign");
    b.enumeration("signed", true, &[("NEGATIVE", -5)]);
    let new = parse(&b);
    assert_eq!(new.enum_value("reason", "LAST"), Some(i64::from(u32::MAX)));
    assert_eq!(new.enum_value("signed", "NEGATIVE"), Some(-5));
    assert_eq!(new.enum_value("wide", "HIGH"), Some(1 << 40));
    assert_eq!(new.enum_value("wide", "MINUS"), Some(-2));
    assert_eq!(new.enum_value("", "MM_ANONPAGES"), Some(1));
    assert_eq!((new.enum_value("reason", "ABSENT"), new.enum_value("absent", "NONE")), (None, None));
}

#[test]
fn arguments_of_a_raw_tracepoint() {
    let mut b = Builder::new();
    let (int, flag) = (b.int("int", 4, true), b.int("_Bool", 1, false));
    let task = b.strukt("task_struct", 64, &[]);
    let task_ptr = b.refer(Kind::PTR, "", task);
    let void_ptr = b.refer(Kind::PTR, "", 0);
    let constant = b.refer(Kind::CONST, "", task);
    let const_ptr = b.refer(Kind::PTR, "", constant);
    let reason = b.enumeration("reason", false, &[("NONE", 0)]);
    let pid = b.refer(Kind::TYPEDEF, "pid_t", int);
    b.callback("btf_trace_x", &[void_ptr, task_ptr, const_ptr, void_ptr, flag, pid, reason, task]);
    b.callback("btf_trace_none", &[void_ptr]);
    b.refer(Kind::TYPEDEF, "btf_trace_odd", int);
    let btf = parse(&b);
    let task = ParamType::Pointer { pointee: Some("task_struct".into()) };
    let expected = vec![
        task.clone(),
        task,
        ParamType::Pointer { pointee: None },
        ParamType::Int { size: 1, signed: false },
        ParamType::Int { size: 4, signed: true },
        ParamType::Int { size: 4, signed: false },
        ParamType::Other,
    ];
    assert_eq!(btf.func_proto_of_typedef("btf_trace_x"), Some(expected));
    assert_eq!(btf.func_proto_of_typedef("btf_trace_none"), Some(vec![]));
    assert_eq!(btf.func_proto_of_typedef("btf_trace_odd"), None);
    assert_eq!(btf.func_proto_of_typedef("absent"), None);
}

#[test]
fn a_kind_of_the_future_is_walked_over_if_the_file_states_its_length() {
    let mut b = Builder::new();
    let word = b.int("u32", 4, false);
    b.raw("loc", 25, (false, 2), 0, &[7, 1, 2]);
    b.strukt("after", 4, &[("field", word, 0)]);
    assert!(matches!(Btf::parse(b.file(32)), Err(BtfError::UnknownKind { id: 2, kind: 25 })));
    b.layout(25, 4, 4);
    let btf = Btf::parse(b.file(32)).expect("lengths are stated");
    assert_eq!(btf.member_offset("after", "field"), at(0, 4));
    assert!(matches!(Btf::parse(b.file(24)), Err(BtfError::UnknownKind { .. })), "the old header has no layout");
}

#[test]
fn circles_end() {
    let mut b = Builder::new();
    // Types 1 and 2 refer to each other; struct 3 holds itself twice without a name; 4 is an array of itself.
    b.refer(Kind::TYPEDEF, "a", 2);
    b.refer(Kind::CONST, "", 1);
    b.strukt("s", 8, &[("", 3, 0), ("", 3, 0), ("loop", 1, 0), ("array", 4, 0)]);
    b.array(4, u32::MAX);
    let btf = parse(&b);
    for path in ["absent", "loop", "loop.x", "array", "array[1]", "array[0][0][0]"] {
        assert_eq!(btf.member_offset("s", path), None, "{path}");
    }
    assert_eq!(btf.func_proto_of_typedef("a"), None);
}

#[test]
fn what_is_wrong_is_named() {
    let file = sock().file(24);
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Btf::parse(file).expect_err("broken")
    };
    assert!(matches!(Btf::parse(vec![]), Err(BtfError::Magic { found: 0 })));
    assert!(matches!(with(0, &0x9feb_u16.to_ne_bytes()), BtfError::Magic { found: 0x9feb }));
    assert!(matches!(with(2, &[2]), BtfError::Version(2)));
    assert!(matches!(with(4, &8_u32.to_ne_bytes()), BtfError::Header { hdr_len: 8, .. }));
    assert!(matches!(with(4, &u32::MAX.to_ne_bytes()), BtfError::Header { .. }));
    assert!(matches!(with(12, &u32::MAX.to_ne_bytes()), BtfError::Section { name: "types", .. }));
    assert!(matches!(with(20, &u32::MAX.to_ne_bytes()), BtfError::Section { name: "strings", .. }));
    assert!(matches!(with(12, &17_u32.to_ne_bytes()), BtfError::Truncated { id: 2, .. }));
    assert!(matches!(with(28, &0_u32.to_ne_bytes()), BtfError::UnknownKind { id: 1, kind: 0 }));
    let error = Btf::load(&Root::new("/nonexistent")).expect_err("no file").to_string();
    assert!(error.contains("/sys/kernel/btf/vmlinux") && error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
}

/// Asks every question; the answers do not matter, coming back does.
fn ask(bytes: Vec<u8>) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for name in ["sock", "sock_common", "pid_t", ""] {
        for path in ["common.saddr", "stats[1].count[2]", "flexible[4294967295]", "next.x", ""] {
            _ = btf.member_offset(name, path);
        }
        _ = (
            btf.bitfield(name, "common.saddr"),
            btf.struct_size(name),
            btf.enum_value(name, "x"),
            btf.func_proto_of_typedef(name),
        );
    }
}

#[test]
fn every_prefix_is_safe() {
    let file = sock().file(32);
    for len in 0..file.len() {
        ask(file[..len].to_vec());
    }
}

proptest! {
    #[test]
    fn flipped_bytes_are_safe(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut file = sock().file(24);
        for (index, value) in flips {
            let at = index.index(file.len());
            file[at] = value;
        }
        ask(file);
    }

    #[test]
    fn garbage_types_are_safe(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut file = Builder::new().file(24);
        file[12..16].copy_from_slice(&(body.len() as u32).to_ne_bytes());
        file[20..24].copy_from_slice(&(body.len() as u32).to_ne_bytes());
        file[16..20].copy_from_slice(&0_u32.to_ne_bytes());
        file.truncate(24);
        file.extend(body);
        ask(file);
    }
}

/// Facts that hold on every kernel from 5.10 to 7.3.
#[test]
fn the_running_kernel() {
    let root = Root::live();
    if !root.path(VMLINUX).exists() {
        eprintln!("skipped: this kernel publishes no BTF");
        return;
    }
    let btf = Btf::load(&root).expect("the kernel's own BTF");
    assert!(btf.type_count() > 10_000, "{btf:?}");
    let pid = btf.member_offset("task_struct", "pid").expect("task_struct.pid");
    let tgid = btf.member_offset("task_struct", "tgid").expect("task_struct.tgid");
    assert_eq!((pid.size, tgid.offset), (4, pid.offset + 4));
    assert_eq!(btf.member_offset("task_struct", "comm").map(|m| m.size), Some(16));
    assert_eq!(btf.member_offset("signal_struct", "live.counter").map(|m| m.size), Some(4));
    assert_eq!(btf.member_offset("kernfs_node", "id").map(|m| m.size), Some(8));
    assert_eq!(btf.member_offset("request", "cmd_flags").map(|m| m.size), Some(4));
    assert_eq!(btf.member_offset("sock", "__sk_common.skc_daddr"), at(0, 4));
    assert_eq!(btf.member_offset("task_struct", "no_such_member"), None);
    assert!(btf.bitfield("inet_connection_sock", "icsk_ca_state").is_some_and(|field| field.bits <= 8));
    assert_eq!(btf.enum_value("pid_type", "PIDTYPE_TGID"), Some(1));
    assert!(btf.struct_size("task_struct").is_some_and(|size| size > pid.offset));
    let args = btf.func_proto_of_typedef("btf_trace_sched_process_exit").expect("a raw tracepoint");
    assert_eq!(args[0], ParamType::Pointer { pointee: Some("task_struct".into()) });
}
