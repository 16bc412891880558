//! Without a manager: what is said when there is none. With one: `tests/tests/systemd.rs`.

use std::{io, sync::Arc};

use super::*;
use crate::model::action::Reason;

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn refused(bus: Bus) -> SystemdError {
    run(Systemd::connect(&bus)).unwrap_err()
}

#[test]
fn nobody_at_the_address_is_no_service_manager() {
    let folder = std::env::temp_dir().join(format!("faultline-no-bus-{}", std::process::id()));
    for bus in [
        Bus::Address(format!("unix:path={}", folder.join("bus").display())),
        Bus::Address("nonsense".into()),
        Bus::Address(String::new()),
    ] {
        let error = refused(bus.clone());
        assert_eq!(error.reason(), Reason::NoServiceManager, "{bus}: {error}");
        assert!(!error.touched(), "{error}");
    }
}

#[test]
fn somebody_else_at_the_address_is_no_service_manager() {
    let folder = std::env::temp_dir().join(format!("faultline-deaf-bus-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("private");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let deaf = std::thread::spawn(move || drop(listener.accept()));
    let error = refused(Bus::Address(format!("unix:path={}", path.display())));
    deaf.join().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(error.reason(), Reason::NoServiceManager, "{error}");
    assert!(error.to_string().contains("is systemd running"), "{error}");
}

#[test]
fn a_broken_connection_is_told_from_a_refusal() {
    let broken = zbus::Error::InputOutput(Arc::new(io::Error::from(io::ErrorKind::BrokenPipe)));
    let lost = SystemdError::of_call("bus", "RestartUnit", "a.service", &broken);
    assert!(lost.touched(), "nobody knows whether the manager heard it");
    assert_eq!(lost.reason(), Reason::NoServiceManager);
    let denied = zbus::Error::from(zbus::fdo::Error::AccessDenied("no".into()));
    let refused = SystemdError::of_call("bus", "RestartUnit", "a.service", &denied);
    assert_eq!((refused.reason(), refused.touched()), (Reason::NotPermitted, false));
    assert_eq!(refused.to_string(), "systemd refuses RestartUnit of a.service: no");
    let absent = zbus::Error::from(zbus::fdo::Error::ServiceUnknown("no systemd1".into()));
    assert_eq!(SystemdError::of_call("bus", "LoadUnit", "a.service", &absent).reason(), Reason::NoServiceManager);
    let odd = zbus::Error::from(zbus::fdo::Error::InvalidArgs("no unit name".into()));
    assert_eq!(SystemdError::of_call("bus", "LoadUnit", "a b", &odd).reason(), Reason::UnitUnknown);
}

#[test]
fn health_says_what_it_cannot_tell() {
    let health = |active: &str, main_pid| UnitHealth {
        active_state: active.into(),
        sub_state: String::new(),
        main_pid,
        cgroup: String::new(),
        n_restarts: 0,
        result: String::new(),
    };
    assert_eq!(health("active", 7).is_running(), Some(true));
    assert_eq!(health("active", 0).is_running(), None, "a oneshot that remains");
    for state in ["inactive", "failed", "activating", "deactivating"] {
        assert_eq!(health(state, 7).is_running(), Some(false), "{state}");
    }
    assert!(health("failed", 0).is_stopped() && !health("deactivating", 0).is_stopped());
}
