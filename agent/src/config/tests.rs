//! What a configuration may be: the reference is the default, and every mistake names its place.

use proptest::prelude::*;

use super::*;

fn error(text: &str) -> String {
    Config::parse(text, "f.toml").expect_err("must be refused").to_string()
}

#[test]
fn the_reference_states_the_defaults() {
    assert_eq!(Config::parse(REFERENCE, "reference").expect("the reference is valid"), Config::default());
}

#[test]
fn an_unknown_key_names_file_line_and_key() {
    let message = error("mode = \"observe\"\n\n[reactor]\nspinn = \"never\"\n");
    assert!(message.starts_with("f.toml:4:") && message.contains("spinn"), "{message}");
}

#[test]
fn a_wrong_type_names_its_line() {
    let message = error("[rings]\ncritical_bytes = \"big\"\n");
    assert!(message.starts_with("f.toml:2:") && message.contains("invalid type"), "{message}");
}

#[test]
fn a_value_out_of_range_says_what_is_expected() {
    for (text, key) in [
        ("[rings]\nbulk_bytes = 5000\n", "rings.bulk_bytes"),
        ("[rings]\nbulk_bytes = -1\n", "rings.bulk_bytes"),
        ("[detect.crash_loop]\ncount = 1000\n", "detect.crash_loop.count"),
        ("[detect.disk_latency]\noutlier = \"soon\"\n", "detect.disk_latency.outlier"),
        ("[detect.disk_latency]\nfactor = nan\n", "detect.disk_latency.factor"),
        ("[watch]\nunits = [\"nginx\"]\n", "watch.units"),
        ("[flight]\nwindow = \"1s\"\n", "flight.window"),
        ("[flight]\ndir = \"here\"\n", "flight.dir"),
        ("[watch]\nexecutables = [\"a-name-that-is-too-long\"]\n", "watch.executables"),
    ] {
        let message = error(text);
        assert!(message.starts_with("f.toml:2:"), "{message}");
        assert!(message.contains(key) && message.contains("expected"), "{message}");
    }
}

#[test]
fn a_spinning_reactor_is_never_real_time() {
    let message = error("[reactor]\nspin = \"always\"\nfifo_priority = 5\n");
    assert!(message.starts_with("f.toml:3:") && message.contains("never yield"), "{message}");
}

#[test]
fn an_unreadable_file_is_named() {
    let message = Config::load(Path::new("/nonexistent/f.toml")).expect_err("no such file").to_string();
    assert!(message.contains("/nonexistent/f.toml"), "{message}");
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_an_error(text in "\\PC{0,200}") {
        let _ = Config::parse(&text, "f.toml");
    }

    #[test]
    fn any_number_is_in_range_or_refused(count in any::<i64>(), bytes in any::<i64>()) {
        let text = format!("[detect.crash_loop]\ncount = {count}\n[rings]\ncritical_bytes = {bytes}\n");
        if let Ok(config) = Config::parse(&text, "f.toml") {
            prop_assert!((2..=16).contains(&config.detect.crash_loop.count));
            prop_assert!(config.rings.critical_bytes.is_power_of_two());
        }
    }
}
