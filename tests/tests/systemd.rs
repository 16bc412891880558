//! The client of the service manager, and the executor's hands on units, against a real systemd that the test
//! itself starts in a jail; skipped, with the reason, where none can be started.

use std::io::Write;

use faultline_tests::{case::systemd::CHECKS, private_systemd::PrivateSystemd};

#[test]
fn the_client_against_a_real_manager() {
    for (name, check) in CHECKS {
        let mut manager = match PrivateSystemd::start() {
            Ok(manager) => manager,
            Err(reason) => {
                let _ = writeln!(std::io::stderr(), "skipped: {reason:#}");
                return;
            }
        };
        if let Err(error) = check(&mut manager) {
            panic!("{name}: {error:#}\n{}", manager.log());
        }
    }
}
