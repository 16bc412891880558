//! Every committed recording replays without root to what the live run said, and a bad one never to something else.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use faultline_tests::{
    agent::{self, Ended, Line},
    private,
    recordings::{self, FOLDER, Labelled},
};

fn committed() -> Vec<Labelled> {
    let all = recordings::all(Path::new(FOLDER)).unwrap();
    assert!(all.len() >= 6, "only {} recordings in {FOLDER}", all.len());
    all
}

/// A file of this test that goes when it is dropped.
struct Copy(PathBuf);

impl Copy {
    fn of(bytes: &[u8], name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("faultline-replay-{}-{name}.flt", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn replay(&self) -> Ended {
        recordings::replay(&self.0, |_| {}).unwrap()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn every_recording_replays_to_its_golden_twice() {
    for labelled in committed() {
        for _ in 0..2 {
            labelled.replay(|_| {}).unwrap();
        }
    }
}

#[test]
fn locale_time_zone_and_cpu_count_change_nothing() {
    let elsewhere = |command: &mut Command| {
        command.env("LC_ALL", "de_DE.UTF-8").env("LANG", "de_DE.UTF-8").env("TZ", "Asia/Kathmandu");
        private::on_cpu(command, 0);
    };
    for labelled in committed() {
        labelled.replay(elsewhere).unwrap();
    }
}

#[test]
fn replay_needs_no_root() {
    let nobody = |command: &mut Command| {
        use std::os::unix::process::CommandExt;
        // Only root can become somebody else; anyone else is no root already.
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
    };
    // In a place that anybody may read: the project may lie in root's home.
    let program = std::env::temp_dir().join(format!("faultline-nobody-{}", std::process::id()));
    fs::copy(faultline_tests::program::faultline().unwrap(), &program).unwrap();
    for labelled in committed() {
        let copy = Copy::of(&fs::read(&labelled.path).unwrap(), "nobody");
        let mut command = Command::new(&program);
        command.arg("replay").arg(&copy.0).arg("--json");
        nobody(&mut command);
        let ended = agent::run_command(command).unwrap();
        assert_eq!(ended.code().unwrap(), 0, "{}", ended.stderr);
        assert_eq!(agent::verdicts(&ended.lines), labelled.golden);
    }
    fs::remove_file(&program).unwrap();
}

#[test]
fn every_golden_agrees_with_its_truth() {
    for labelled in committed() {
        labelled.judge().unwrap();
    }
}

#[test]
fn a_golden_that_contradicts_its_truth_fails() {
    for good in committed() {
        let wrong = |change: &dyn Fn(&mut Labelled)| {
            let mut copy = good.clone();
            change(&mut copy);
            copy.judge().map_err(|error| format!("{error:#}"))
        };
        let kind = wrong(&|l| l.truth.faults[0].kind = "meteor".into());
        assert!(kind.is_err_and(|e| e.contains("nobody caused")));
        let name = wrong(&|l| l.truth.faults[0].entity_name.push('x'));
        assert!(name.is_err_and(|e| e.contains("nobody caused")));
        let late = wrong(&|l| l.truth.faults[0].earliest_ns = u64::MAX - 1);
        assert!(late.is_err_and(|e| e.contains("it opened at")));
        let early = wrong(&|l| l.truth.faults[0].latest_ns = 0);
        assert!(early.is_err_and(|e| e.contains("it opened at")));
        let evidence = wrong(&|l| drop(l.truth.faults[0].evidence.insert("colour".into(), "red".into())));
        assert!(evidence.is_err_and(|e| e.contains("colour is null")));
        let none = wrong(&|l| l.golden.clear());
        assert!(none.is_err_and(|e| e.contains("0 times, not once")));
        let twice = wrong(&|l| {
            let again = l.golden.replace("\"id\":\"f1\"", "\"id\":\"f2\"");
            l.golden.push_str(&again);
        });
        assert!(twice.is_err_and(|e| e.contains("2 times, not once")));
        let lost = wrong(&|l| {
            l.golden.push_str(r#"{"type":"loss","time":"2026-01-01T00:00:00Z","sensor":null,"count":1,"reason":"limited","from_ns":1,"to_ns":2}"#);
        });
        assert!(lost.is_err_and(|e| e.contains("something was lost")));
    }
}

/// What a damaged copy may do: refuse (2), or give a prefix of the verdicts and one `loss` (1). Nothing else.
fn intact_prefix_or_refusal(golden: &str, copy: &Copy, what: &str) {
    let ended = copy.replay();
    let verdicts: Vec<&Line> = ended.lines.iter().filter(|line| line.is_verdict()).collect();
    match ended.code().unwrap_or_else(|error| panic!("{what}: {error}")) {
        2 => {
            assert!(verdicts.is_empty(), "{what}: verdicts and a refusal");
            let path = copy.0.display().to_string();
            assert!(ended.stderr.contains(&path), "{what}: the message does not name {path}: {}", ended.stderr);
        }
        1 => {
            let (last, prefix) = verdicts.split_last().unwrap_or_else(|| panic!("{what}: no loss line"));
            assert_eq!(last.value["reason"], "recording_damaged", "{what}: {}", last.text);
            let prefix: String = prefix.iter().flat_map(|line| [line.text.as_str(), "\n"]).collect();
            assert!(golden.starts_with(&prefix), "{what}: not a prefix of the golden:\n{prefix}");
            ended.summary().unwrap();
        }
        other => panic!("{what}: status {other}: {}", ended.stderr),
    }
}

#[test]
fn a_truncated_copy_gives_the_intact_prefix() {
    for labelled in committed() {
        let bytes = fs::read(&labelled.path).unwrap();
        let some = (0..16).map(|part| bytes.len() * part / 16).chain([1, 8, 31, 32, bytes.len() - 1]);
        for length in some {
            let copy = Copy::of(&bytes[..length], "truncated");
            intact_prefix_or_refusal(&labelled.golden, &copy, &format!("{} cut to {length}", labelled.path.display()));
        }
    }
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_is() {
    for labelled in committed() {
        let bytes = fs::read(&labelled.path).unwrap();
        for part in 0..48 {
            let (place, bit) = (bytes.len() * part / 48, part % 8);
            let mut copy = bytes.clone();
            copy[place] ^= 1 << bit;
            let copy = Copy::of(&copy, "flipped");
            let what = format!("{} with bit {bit} of byte {place} flipped", labelled.path.display());
            intact_prefix_or_refusal(&labelled.golden, &copy, &what);
        }
    }
}

#[test]
fn a_recording_of_a_future_version_is_refused_by_name() {
    let labelled = &committed()[0];
    let mut bytes = fs::read(&labelled.path).unwrap();
    bytes[8..12].copy_from_slice(&77_u32.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    let ended = Copy::of(&bytes, "future").replay();
    assert_eq!(ended.code().unwrap(), 2);
    assert!(ended.stderr.contains("77") && ended.stderr.contains("newer"), "{}", ended.stderr);
    assert!(ended.lines.is_empty());
}

#[test]
fn bytes_behind_the_end_are_noticed() {
    let labelled = &committed()[0];
    let mut bytes = fs::read(&labelled.path).unwrap();
    bytes.extend_from_slice(&bytes.clone());
    intact_prefix_or_refusal(&labelled.golden, &Copy::of(&bytes, "doubled"), "a doubled recording");
}
