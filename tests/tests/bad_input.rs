//! Bad input: each has a message that says what, where and what to do, and the right exit status.
//!
//! Those that need root say so and are passed over without it. The ring that is too large for the machine's memory
//! needs a machine with little of it: `faultline-case observe` in a VM.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use faultline_tests::{
    agent::{self, Agent, Ended},
    inject::{Injector, crash::Crash},
    lock, private, program, recordings,
};
use nix::sys::signal::Signal;

/// A folder of this test that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("faultline-bad-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Exit status, no line, and every one of these words on standard error.
fn refused(ended: &Ended, status: i32, words: &[&str]) {
    assert_eq!(ended.code().unwrap(), status, "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "no {word:?} in: {}", ended.stderr);
    }
}

#[test]
fn a_configuration_error_names_file_line_key_and_what_is_expected() {
    let folder = Folder::new("config");
    for (text, line, words) in [
        ("[detect.crash_loop]\ncuont = 3\n", 2, &["cuont", "count"][..]),
        ("modus = \"act\"\n", 1, &["modus", "mode"]),
        ("[rings]\n\nbulk_bytes = \"big\"\n", 3, &["bulk_bytes", "an integer"]),
        ("mode = 3\n", 1, &["mode"]),
        ("mode = \"repair\"\n", 1, &["repair", "observe"]),
        ("[rings]\nbulk_bytes = 5000\n", 2, &["rings.bulk_bytes", "5000", "power of two"]),
        ("[reactor]\nfifo_priority = 100\n", 2, &["reactor.fifo_priority", "100", "1 to 99"]),
        ("[reactor]\nspin = \"always\"\nfifo_priority = 5\n", 3, &["reactor.fifo_priority", "always"]),
        ("[faults]\nclear_after = \"soon\"\n", 2, &["faults.clear_after", "soon", "1s"]),
        ("[detect.disk_latency]\nfactor = 0.5\n", 2, &["factor", "0.5", "1.0"]),
        ("[watch]\nunits = [\"nginx\"]\n", 2, &["watch.units", "nginx", "nginx.service"]),
        ("[watch]\nexecutables = [\"a-name-of-twenty-xx\"]\n", 2, &["watch.executables", "15"]),
        ("mode = \n", 1, &[]),
    ] {
        let file = folder.file("faultline.toml", text);
        let place = format!("{file}:{line}");
        for command in [&["check", &file][..], &["run", "--json", "--config", &file]] {
            let ended = agent::run(command).unwrap();
            refused(&ended, 2, words);
            refused(&ended, 2, &[&place]);
            assert!(ended.lines.is_empty());
        }
    }
}

#[test]
fn an_unreadable_file_is_named() {
    let folder = Folder::new("unreadable");
    let (nowhere, directory) = (folder.0.join("none").display().to_string(), folder.0.display().to_string());
    fs::write(folder.0.join("bytes.toml"), [0xff, 0xfe, 0]).unwrap();
    let bytes = folder.0.join("bytes.toml").display().to_string();
    for (path, word) in [(&nowhere, "No such file"), (&directory, "directory"), (&bytes, "UTF-8")] {
        refused(&agent::run(&["check", path]).unwrap(), 2, &[path, word]);
        refused(&agent::run(&["run", "--json", "--config", path]).unwrap(), 2, &[path, word]);
    }
    let empty = folder.file("empty.flt", "");
    let text = folder.file("text.flt", "this is no recording, it is a letter\n");
    for (path, word) in [(&nowhere, "No such file"), (&directory, "directory"), (&empty, "empty"), (&text, "recording")]
    {
        refused(&agent::run(&["replay", path, "--json"]).unwrap(), 2, &[path, word]);
    }
}

#[test]
fn a_file_without_permission_is_named() {
    if !lock::is_root("a_file_without_permission_is_named") {
        return;
    }
    use std::os::unix::{fs::PermissionsExt, process::CommandExt};
    let folder = Folder::new("forbidden");
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.file("secret.toml", "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let copy = folder.0.join("faultline");
    fs::copy(program::faultline().unwrap(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command.args(["check", &file]).uid(65534).gid(65534);
    refused(&agent::run_command(command).unwrap(), 2, &[&file, "Permission denied"]);
}

#[test]
fn a_wrong_argument_says_what_would_be_right() {
    refused(&agent::run(&["run", "--json", "--for", "soon"]).unwrap(), 2, &["soon", "--for", "10s"]);
    refused(&agent::run(&["run", "--json", "--hook", "oom_kill"]).unwrap(), 2, &["oom_kill", "SENSOR=RUNG", "raw_tp"]);
    refused(&agent::run(&["run", "--json", "--hook", "oom_kil=raw_tp"]).unwrap(), 2, &["oom_kil=raw_tp", "oom_kill"]);
    refused(&agent::run(&["run", "--json", "--mode", "repair"]).unwrap(), 2, &["repair", "observe", "act"]);
    refused(&agent::run(&["drill", "earthquake", "--json"]).unwrap(), 2, &["earthquake", "crash-loop"]);
    refused(&agent::run(&["sing"]).unwrap(), 2, &["sing"]);
}

#[test]
fn a_recording_is_not_written_over_something_else() {
    if !lock::is_root("a_recording_is_not_written_over_something_else") {
        return;
    }
    let _machine = lock::machine().unwrap();
    let folder = Folder::new("overwrite");
    let letter = folder.file("letter.txt", "dear reader\n");
    let ended = agent::run(&["run", "--json", "--for", "1s", "--record", &letter]).unwrap();
    refused(&ended, 2, &[&letter, "another path"]);
    assert_eq!(fs::read_to_string(&letter).unwrap(), "dear reader\n");
    let nowhere = folder.0.join("none/x.flt").display().to_string();
    refused(&agent::run(&["record", "--json", "--for", "1s", "--out", &nowhere]).unwrap(), 2, &[&nowhere]);
}

#[test]
fn without_cap_bpf_it_says_so() {
    if !lock::is_root("without_cap_bpf_it_says_so") {
        return;
    }
    let mut command = Command::new(program::faultline().unwrap());
    command.args(["run", "--json", "--for", "1s"]);
    private::without_capabilities(&mut command, &[private::BPF, private::PERFMON, private::SYS_ADMIN]);
    let ended = agent::run_command(command).unwrap();
    refused(&ended, 1, &["CAP_BPF"]);
    let mut command = Command::new(program::faultline().unwrap());
    command.args(["doctor", "--json"]);
    private::without_capabilities(&mut command, &[private::BPF, private::PERFMON, private::SYS_ADMIN]);
    let ended = agent::run_command(command).unwrap();
    refused(&ended, 1, &["CAP_BPF"]);
    let line = ended.lines.iter().find(|line| line.value["sensor"] == "capabilities").unwrap();
    assert!(line.value["missing"].to_string().contains("CAP_BPF"), "{}", line.text);
}

/// Runs `doctor` where there is no tracefs and none can be mounted, and where these folders are empty.
fn doctor_without_tracefs_and(covered: &'static [&'static str]) -> Ended {
    private::on_own_thread(move || {
        private::own_mounts()?;
        private::uncover(Path::new("/sys/kernel/debug/tracing"));
        private::uncover(Path::new("/sys/kernel/debug"));
        private::uncover(Path::new("/sys/kernel/tracing"));
        for folder in covered {
            private::cover(Path::new(folder), 4096)?;
        }
        let mut command = Command::new(program::faultline()?);
        command.args(["doctor", "--json"]);
        private::without_capabilities(&mut command, &[private::SYS_ADMIN]);
        agent::run_command(command)
    })
    .unwrap()
}

fn health<'a>(ended: &'a Ended, sensor: &str) -> &'a serde_json::Value {
    &ended.lines.iter().find(|line| line.value["sensor"] == sensor).unwrap().value
}

#[test]
fn without_btf_the_tracepoint_rungs_are_left() {
    if !lock::is_root("without_btf_the_tracepoint_rungs_are_left") {
        return;
    }
    let ended = private::on_own_thread(|| {
        private::own_mounts()?;
        private::cover(Path::new("/sys/kernel/btf"), 4096)?;
        agent::run(&["doctor", "--json"])
    })
    .unwrap();
    // Required sensors are missing: a finding.
    assert_eq!(ended.code().unwrap(), 1, "{}", ended.stderr);
    assert!(health(&ended, "btf")["error"].to_string().contains("/sys/kernel/btf/vmlinux"));
    assert!(health(&ended, "btf")["error"].to_string().contains("CONFIG_DEBUG_INFO_BTF"));
    for sensor in ["oom_kill", "tcp_retransmit"] {
        assert_eq!(health(&ended, sensor)["hook"], "tracepoint", "{}", health(&ended, sensor));
    }
    for sensor in ["block_io", "process_exit"] {
        assert_eq!(health(&ended, sensor)["state"], "unsupported", "{}", health(&ended, sensor));
        assert!(health(&ended, sensor)["error"].is_string());
    }
}

#[test]
fn without_tracefs_the_other_rungs_are_left() {
    if !lock::is_root("without_tracefs_the_other_rungs_are_left") {
        return;
    }
    let ended = doctor_without_tracefs_and(&[]);
    assert!(health(&ended, "tracefs")["error"].to_string().contains("tracing"), "{}", health(&ended, "tracefs"));
    for sensor in ["oom_kill", "tcp_retransmit", "block_io", "process_exit"] {
        assert_eq!(health(&ended, sensor)["hook"], "tp_btf", "{}", health(&ended, sensor));
    }
}

#[test]
fn without_btf_and_tracefs_every_sensor_says_why() {
    if !lock::is_root("without_btf_and_tracefs_every_sensor_says_why") {
        return;
    }
    let ended = doctor_without_tracefs_and(&["/sys/kernel/btf"]);
    assert_eq!(ended.code().unwrap(), 1, "{}", ended.stderr);
    for sensor in ["oom_kill", "tcp_retransmit", "block_io", "process_exit"] {
        assert_eq!(health(&ended, sensor)["state"], "unsupported", "{}", health(&ended, sensor));
        assert!(health(&ended, sensor)["error"].is_string());
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_not_the_agent() {
    if !lock::is_root("a_full_disk_ends_the_recording_and_not_the_agent") {
        return;
    }
    let _machine = lock::machine().unwrap();
    private::on_own_thread(full_disk).unwrap();
}

fn full_disk() -> anyhow::Result<()> {
    let folder = Folder::new("full");
    private::own_mounts()?;
    // Room for the header and a few blocks.
    private::cover(&folder.0, 16 << 10)?;
    let path = folder.0.join("full.flt");
    let name = path.display().to_string();
    let mut agent = Agent::start(&["--record", &name])?;
    // Every round fills a little more; the agent says when it was too much.
    for _ in 0..200 {
        for _ in 0..50 {
            Command::new("false").status()?;
        }
        agent.watch(std::time::Duration::from_millis(10))?;
        if agent.said().contains(&name) {
            break;
        }
    }
    agent.wait_until_said(&name)?;
    let said = agent.said();
    assert!(said.contains("No space left") && said.contains("goes on"), "{said}");
    let expected = Crash.inject(&[])?;
    agent.wait_for(&expected.describe(), |line| expected.is(line))?;
    let ended = agent.stop(Signal::SIGTERM)?;
    assert_eq!(ended.code()?, 1, "a recording that broke off is a finding: {}", ended.stderr);
    ended.summary()?;
    let replayed = recordings::replay(&path, |_| {})?;
    assert_eq!(replayed.code()?, 1, "{}", replayed.stderr);
    let last = replayed.lines.iter().rfind(|line| line.is_verdict()).unwrap();
    assert_eq!(last.value["reason"], "recording_damaged");
    // Events of the intact prefix are those of the live run.
    let events = |lines: &[agent::Line]| -> Vec<String> {
        lines.iter().filter(|line| line.kind() == "event").map(|line| line.text.clone()).collect()
    };
    let (live, replayed) = (events(&ended.lines), events(&replayed.lines));
    assert!(!replayed.is_empty() && replayed.len() < live.len());
    assert_eq!(replayed[..], live[..replayed.len()]);
    nix::mount::umount(&folder.0)?;
    Ok(())
}
