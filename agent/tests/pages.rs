//! The generated pages are current. `FAULTLINE_WRITE_PAGES=1 cargo test -p faultline --test pages` writes them.

use std::{fs, path::Path};

use faultline::export::pages;

fn current(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    if std::env::var_os("FAULTLINE_WRITE_PAGES").is_some() {
        fs::write(&path, page).expect("agent/docs is writable");
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == page, "{} is stale: see the head of agent/tests/pages.rs", path.display());
}

#[test]
fn the_page_of_sensors_is_current() {
    current("sensors.md", &pages::sensors());
}

#[test]
fn the_page_of_the_configuration_is_current() {
    current("configuration.md", &pages::configuration());
}
