//! Paths as real machines have them, paths that pretend, and paths made of anything.
//!
//! In the table `$A` and `$B` stand for container ids, `$U` for a pod's uid, `$V` for the same as systemd's driver
//! spells it, `$S` for the uid of a static pod. A piece that is not listed must be absent.

use std::fmt::Write as _;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::attribution::units::service_of;

const A: &str = "3dbb7ee0a3cbfcd4e8a22a1d1e6b2c7a9e8f0d1c2b3a49586776859403122130";
const B: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff0";
const U: &str = "1858680e-b044-4fd5-9dd4-f137e30e2180";
const V: &str = "1858680e_b044_4fd5_9dd4_f137e30e2180";
const S: &str = "99dcb84d2a34f7e338778606703258c4";

/// Paths of the node's own manager.
const UNITS: &[(&str, &str)] = &[
    ("/", ""),
    ("", ""),
    ("/init.scope", "unit=init.scope"),
    ("/system.slice", "slice=system.slice"),
    ("/-.slice", "slice=-.slice"),
    ("/system.slice/nginx.service", "slice=system.slice unit=nginx.service"),
    ("/system.slice/system-getty.slice/getty@tty1.service", "slice=system-getty.slice unit=getty@tty1.service"),
    ("/system.slice/a.service/sub/leaf", "slice=system.slice unit=a.service"),
    ("/system.slice/containerd.service", "slice=system.slice unit=containerd.service"),
    ("/system.slice/run-r1f2.scope", "slice=system.slice unit=run-r1f2.scope"),
    ("/nginx.service", "unit=nginx.service"),
    ("/user.slice", "slice=user.slice"),
    ("/user.slice/user-1000.slice", "slice=user-1000.slice user=1000"),
    ("/user.slice/user-1000.slice/session-3.scope", "slice=user-1000.slice unit=session-3.scope user=1000"),
    ("/user.slice/user-0.slice/user@0.service", "slice=user-0.slice unit=user@0.service user=0"),
    (
        "/user.slice/user-1000.slice/user@1000.service/init.scope",
        "slice=user-1000.slice unit=user@1000.service user=1000:init.scope",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-81.scope",
        "slice=user-1000.slice unit=user@1000.service user=1000:app-firefox-81.scope",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service/worker",
        "slice=user-1000.slice unit=user@1000.service user=1000:nginx.service",
    ),
    ("/azure.slice/azure-walinuxagent.slice", "slice=azure-walinuxagent.slice"),
];

/// Engines without Kubernetes.
const CONTAINERS: &[(&str, &str)] = &[
    ("/docker/$A", "container=Docker:$A"),
    ("/docker/$A/init.scope", "container=Docker:$A"),
    ("/system.slice/docker-$A.scope", "slice=system.slice unit=docker-$A.scope container=Docker:$A"),
    (
        "/system.slice/docker-$A.scope/system.slice/nginx.service",
        "slice=system.slice unit=docker-$A.scope container=Docker:$A",
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-$A.scope",
        "slice=user-1000.slice unit=user@1000.service user=1000:docker-$A.scope container=Docker:$A",
    ),
    ("/docker/$A/docker/$B", "container=Docker:$A"),
    ("/system.slice/docker.service", "slice=system.slice unit=docker.service"),
    ("/actions_job/$A", "container=Unknown:$A"),
    ("/system.slice/runc-$A.scope", "slice=system.slice unit=runc-$A.scope container=Unknown:$A"),
    ("/system.slice/nerdctl-$A.scope", "slice=system.slice unit=nerdctl-$A.scope container=Containerd:$A"),
    ("/default/$A", "container=Containerd:$A"),
    ("/k8s.io/$A", "container=Containerd:$A"),
    (
        "/system.slice/containerd.service/default/$A",
        "slice=system.slice unit=containerd.service container=Containerd:$A",
    ),
    ("/machine.slice/libpod-$A.scope", "slice=machine.slice unit=libpod-$A.scope container=Podman:$A"),
    ("/machine.slice/libpod-$A.scope/container", "slice=machine.slice unit=libpod-$A.scope container=Podman:$A"),
    ("/machine.slice/libpod-conmon-$A.scope", "slice=machine.slice unit=libpod-conmon-$A.scope monitor=Podman:$A"),
    (
        "/machine.slice/machine-libpod_pod_$B.slice/libpod-$A.scope",
        "slice=machine-libpod_pod_$B.slice unit=libpod-$A.scope container=Podman:$A",
    ),
    ("/libpod_parent/libpod-$A", "container=Podman:$A"),
    ("/libpod_parent/libpod-conmon-$A", "monitor=Podman:$A"),
    ("/libpod_parent/$B/libpod-$A", "container=Podman:$A"),
    ("/libpod_parent/$B", ""),
    (
        "/system.slice/web.service/libpod-payload-$A/init.scope",
        "slice=system.slice unit=web.service container=Podman:$A",
    ),
    ("/system.slice/web.service/runtime", "slice=system.slice unit=web.service"),
    (
        "/user.slice/user-7.slice/user@7.service/user.slice/user-libpod_pod_$B.slice/libpod-$A.scope",
        "slice=user-7.slice unit=user@7.service user=7:libpod-$A.scope container=Podman:$A",
    ),
    ("/lxc.payload.web", "container=Lxc:web"),
    ("/lxc.payload.web-1/system.slice/nginx.service", "container=Lxc:web-1"),
    ("/lxc.monitor.web", "monitor=Lxc:web"),
    ("/lxc/101/ns/system.slice/cron.service", "container=Lxc:101"),
    ("/lxc.payload/web", "container=Lxc:web"),
    ("/lxc.monitor/web", "monitor=Lxc:web"),
    ("/lxc", ""),
    (
        "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
        "slice=machine.slice unit=systemd-nspawn@web.service container=Nspawn:web",
    ),
    (
        r"/machine.slice/machine-my\x2dbox.scope/payload",
        r"slice=machine.slice unit=machine-my\x2dbox.scope container=Machine:my\x2dbox",
    ),
    (
        r"/machine.slice/machine-qemu\x2d1\x2ddb.scope/libvirt/vcpu0",
        r"slice=machine.slice unit=machine-qemu\x2d1\x2ddb.scope container=Machine:qemu\x2d1\x2ddb",
    ),
    (
        r"/machine.slice/machine-test.slice/machine-qemu\x2d1.scope",
        r"slice=machine-test.slice unit=machine-qemu\x2d1.scope container=Machine:qemu\x2d1",
    ),
    ("/ecs/a6c0e4c9-5b9a-4a3d-9f0e-0b1c2d3e4f50/$A", "container=Docker:$A"),
    (
        "/ecstasks.slice/ecstasks-e95a40ef.slice/docker-$A.scope",
        "slice=ecstasks-e95a40ef.slice unit=docker-$A.scope container=Docker:$A",
    ),
    (
        "/system.slice/garden.service/garden/6f265890-5165-7fab-6b52-18d1",
        "slice=system.slice unit=garden.service container=Garden:6f265890-5165-7fab-6b52-18d1",
    ),
    ("/garden/good/2f57368b-0eda-4e52-64d8-af5c", "container=Garden:2f57368b-0eda-4e52-64d8-af5c"),
];

/// Kubernetes.
const PODS: &[(&str, &str)] = &[
    ("/kubepods", ""),
    ("/kubepods.slice/kubepods-burstable.slice", "slice=kubepods-burstable.slice"),
    ("/kubepods/pod$U", "pod=Guaranteed:$U"),
    ("/kubepods/pod$U/$A", "pod=Guaranteed:$U container=Unknown:$A"),
    ("/kubepods/burstable/pod$U/$A", "pod=Burstable:$U container=Unknown:$A"),
    ("/kubepods/besteffort/pod$U/$A", "pod=BestEffort:$U container=Unknown:$A"),
    ("/kubepods/burstable/pod$S/$A", "pod=Burstable:$S container=Unknown:$A"),
    ("/kubepods/burstable/pod$U/crio-$A", "pod=Burstable:$U container=Crio:$A"),
    ("/kubepods/burstable/pod$U/crio-conmon-$A", "pod=Burstable:$U monitor=Crio:$A"),
    (
        "/kubepods.slice/kubepods-pod$V.slice/cri-containerd-$A.scope",
        "slice=kubepods-pod$V.slice unit=cri-containerd-$A.scope pod=Guaranteed:$V container=Containerd:$A",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$V.slice/crio-$A.scope/container",
        "slice=kubepods-burstable-pod$V.slice unit=crio-$A.scope pod=Burstable:$V container=Crio:$A",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$V.slice/crio-conmon-$A.scope",
        "slice=kubepods-burstable-pod$V.slice unit=crio-conmon-$A.scope pod=Burstable:$V monitor=Crio:$A",
    ),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod$V.slice/docker-$A.scope",
        "slice=kubepods-besteffort-pod$V.slice unit=docker-$A.scope pod=BestEffort:$V container=Docker:$A",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$S.slice/cri-containerd-$A.scope",
        "slice=kubepods-burstable-pod$S.slice unit=cri-containerd-$A.scope pod=Burstable:$S container=Containerd:$A",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$V.slice",
        "slice=kubepods-burstable-pod$V.slice pod=Burstable:$V",
    ),
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$U.slice/docker-$A.scope",
        "slice=kubepods-burstable-pod$U.slice unit=docker-$A.scope pod=Burstable:$U container=Docker:$A",
    ),
    (
        "/system.slice/containerd.service/kubepods-besteffort-pod$V.slice:cri-containerd:$A",
        "slice=system.slice unit=containerd.service pod=BestEffort:$V container=Containerd:$A",
    ),
    ("/kubepods-pod$V.slice:crio:$A", "pod=Guaranteed:$V container=Crio:$A"),
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod$V.slice/cri-containerd-$A.scope",
        "slice=kubelet-kubepods-pod$V.slice unit=cri-containerd-$A.scope pod=Guaranteed:$V container=Containerd:$A",
    ),
    ("/docker/$B/kubepods/burstable/pod$U/$A", "host=Docker:$B pod=Burstable:$U container=Unknown:$A"),
    ("/docker/$B/kubelet/kubepods/besteffort/pod$U/$A", "host=Docker:$B pod=BestEffort:$U container=Unknown:$A"),
    (
        "/system.slice/docker-$B.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/\
         kubelet-kubepods-burstable-pod$V.slice/cri-containerd-$A.scope",
        "slice=system.slice unit=docker-$B.scope host=Docker:$B pod=Burstable:$V container=Containerd:$A",
    ),
    ("/lxc.payload.node/kubepods/pod$U/$A", "host=Lxc:node pod=Guaranteed:$U container=Unknown:$A"),
    ("/podruntime/docker/kubepods/burstable/pod$U/$A", "pod=Burstable:$U container=Unknown:$A"),
    ("/../../kubepods/pod$U/$A", "pod=Guaranteed:$U container=Unknown:$A"),
    ("/../cri-containerd-$A.scope", "container=Containerd:$A"),
    ("//kubepods//burstable/pod$U///$A/", "pod=Burstable:$U container=Unknown:$A"),
    // What runs inside a container is that container's, whatever it calls itself.
    ("/kubepods/pod$U/$A/docker/$B", "pod=Guaranteed:$U container=Unknown:$A"),
    ("/kubepods/pod$U/$A/kubepods/besteffort/pod$S/$B", "pod=Guaranteed:$U container=Unknown:$A"),
];

/// What is none of it.
const PRETENDERS: &[(&str, &str)] = &[
    ("/docker/nginx", ""),
    ("/docker/$A0", ""),
    ("/docker/0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff", ""),
    ("/docker/3DBB7EE0A3CBFCD4E8A22A1D1E6B2C7A9E8F0D1C2B3A49586776859403122130", ""),
    ("/docker/$A.mount", ""),
    ("/docker/ü$A", ""),
    ("/system.slice/docker-$A", "slice=system.slice"),
    ("/system.slice/docker-$A0.scope", "slice=system.slice unit=docker-$A0.scope"),
    ("/system.slice/docker-.scope", "slice=system.slice unit=docker-.scope"),
    ("/system.slice/$A.service", "slice=system.slice unit=$A.service"),
    ("/system.slice/docker-$A.service", "slice=system.slice unit=docker-$A.service"),
    ("/foo:bar:$A", ""),
    ("/a.slice:cri-containerd:nginx", ""),
    ("/:::", ""),
    ("/burstable/pod$U/x", ""),
    ("/kubepods/guaranteed/pod$U", ""),
    ("/kubepods/../pod$U", ""),
    ("/kubepods/pod", ""),
    ("/kubepods/podweb", ""),
    ("/kubepods/pod$V", ""),
    ("/kubepods/pod$U0", ""),
    ("/kubepods-burstable-podweb.slice", "slice=kubepods-burstable-podweb.slice"),
    ("/mykubepods-pod$V.slice", "slice=mykubepods-pod$V.slice"),
    (
        "/kubepods-pod1858680e_b044-4fd5_9dd4_f137e30e2180.slice",
        "slice=kubepods-pod1858680e_b044-4fd5_9dd4_f137e30e2180.slice",
    ),
    ("/web/lxc/101", ""),
    ("/lxc.payload.", ""),
    ("/garden/herbs", ""),
    ("/home/garden/6f265890-5165-7fab-6b52-18d1", ""),
    ("/system.slice/machine-web.scope", "slice=system.slice unit=machine-web.scope"),
    ("/machine.slice/machine-.scope", "slice=machine.slice unit=machine-.scope"),
    ("/docker/$A/machine.slice/systemd-nspawn@web.service", "container=Docker:$A"),
    ("/user.slice/user-+5.slice/user@+5.service/a.service", "slice=user-+5.slice unit=user@+5.service"),
    ("/user.slice/user-007.slice/session-1.scope", "slice=user-007.slice unit=session-1.scope"),
    ("/user.slice/user-4294967296.slice", "slice=user-4294967296.slice"),
    ("/user.slice/user-1.slice/user@2.service/a.service", "slice=user-1.slice unit=user@2.service user=1"),
    ("/a.slice/user-5.slice/session-1.scope", "slice=user-5.slice unit=session-1.scope"),
    ("/docker/$A/user.slice/user-1000.slice/session-1.scope", "container=Docker:$A"),
    ("/system.slice/user@1000.service", "slice=system.slice unit=user@1000.service"),
    ("/Système.slice/café.service", "slice=Système.slice unit=café.service"),
    ("/app/../system.slice/nginx.service", ""),
    ("/.service", "unit=.service"),
    // A user's own word: told, with the user beside it.
    (
        "/user.slice/user-5.slice/user@5.service/kubepods-pod$V.slice/crio-$A.scope",
        "slice=user-5.slice unit=user@5.service user=5:crio-$A.scope pod=Guaranteed:$V container=Crio:$A",
    ),
];

fn filled(text: &str) -> String {
    [("$A", A), ("$B", B), ("$U", U), ("$V", V), ("$S", S)]
        .iter()
        .fold(text.into(), |t: String, (k, v)| t.replace(k, v))
}

/// All pieces, as the table writes them.
fn told(w: &Workload<'_>) -> String {
    let mut out = String::new();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = write!(out, " {key}={value}");
        }
    };
    let container = |c: Option<Container<'_>>| c.map(|c| format!("{:?}:{}", c.runtime, c.id));
    put("slice", w.slice.map(str::to_owned));
    put("unit", w.unit.map(str::to_owned));
    put("user", w.user.map(|u| u.unit.map_or(u.id.to_string(), |unit| format!("{}:{unit}", u.id))));
    put("host", container(w.host));
    put("pod", w.pod.map(|p| format!("{:?}:{}", p.qos, p.spelled)));
    put("container", container(w.container));
    put("monitor", container(w.monitor));
    out.trim_start().to_owned()
}

#[test]
fn paths_of_real_machines_and_pretenders() {
    let tables = [UNITS, CONTAINERS, PODS, PRETENDERS];
    let mut wrong = String::new();
    for (path, expected) in tables.into_iter().flatten() {
        let (path, expected) = (filled(path), filled(expected));
        let found = told(&workload(&path));
        if found != expected {
            let _ = writeln!(wrong, "{path}\n  expected {expected}\n  found    {found}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn names_for_people() {
    let cases = [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice", "system.slice"),
        ("/", "/"),
        ("/some/where", "/some/where"),
        ("/docker/$A", "container 3dbb7ee0a3cb"),
        ("/kubepods/pod$U/$A", "pod 1858680e-b044-4fd5-9dd4-f137e30e2180/3dbb7ee0a3cb"),
        ("/kubepods.slice/kubepods-pod$V.slice", "pod 1858680e-b044-4fd5-9dd4-f137e30e2180"),
        ("/kubepods/pod$U/crio-conmon-$A", "monitor of pod 1858680e-b044-4fd5-9dd4-f137e30e2180/3dbb7ee0a3cb"),
        ("/machine.slice/libpod-conmon-$A.scope", "monitor of container 3dbb7ee0a3cb"),
        (r"/machine.slice/machine-my\x2dbox.scope", "container my-box"),
        ("/lxc.payload.web/init.scope", "container web"),
        ("/lxc.payload.0123456789abcdef-shop", "container 0123456789abcdef-shop"),
        ("/user.slice/user-8.slice/user@8.service/app.slice/a.service", "a.service of user 8"),
        ("/user.slice/user-8.slice/session-2.scope", "session-2.scope"),
    ];
    for (path, expected) in cases {
        assert_eq!(workload(&filled(path)).short().to_string(), expected, "{path}");
    }
}

#[test]
fn escapes_are_undone() {
    let cases = [
        ("plain-name", "plain-name"),
        (r"my\x2dbox", "my-box"),
        (r"a\x5cx2d", r"a\x2d"),
        (r"\xc3\xbc", "ü"),
        (r"\xff", "\u{fffd}"),
        (r"a\x2", r"a\x2"),
        (r"a\x", r"a\x"),
        (r"\xzz", r"\xzz"),
        (r"a\x2d\x1b[2J", r"a\x2d\x1b[2J"),
        (r"a\x0ab", r"a\x0ab"),
        (r"a\x7f", r"a\x7f"),
        (r"a\xc2\x9b2J", r"a\xc2\x9b2J"),
        (r"ü\x2dü", "ü-ü"),
    ];
    for (name, expected) in cases {
        assert_eq!(unescape(name), expected, "{name}");
    }
    assert!(matches!(unescape("web"), Cow::Borrowed(_)), "nothing to undo, nothing allocated");
}

/// Parts that mean something, alone and in bad company.
fn any_part() -> impl Strategy<Value = String> {
    let known: Vec<&str> = "user.slice/user-5.slice/user@5.service/s.scope system.slice user.slice \
        user-5.slice user@5.service a.service s.scope machine.slice docker ecs kubepods burstable besteffort pod$U \
        kubepods-pod$V.slice kubepods.slice lxc lxc.payload lxc.payload.w lxc.monitor.w \
        garden good default k8s.io libpod_parent $A $B docker-$A.scope crio-$A crio-conmon-$A.scope libpod-payload-$A \
        kubepods-burstable-pod$V.slice:cri-containerd:$A machine-a.scope systemd-nspawn@b.service .. . \
        6f265890-5165-7fab-6b52-18d1 - : .slice .scope .service -.scope pod kubepods- ü"
        .split_whitespace()
        .collect();
    let cut = (prop::sample::select(known.clone()), 0..90usize).prop_map(|(part, at)| {
        let part = filled(part);
        part.char_indices().nth(at).map_or(part.clone(), |(at, _)| part[..at].to_owned())
    });
    prop_oneof![6 => prop::sample::select(known).prop_map(filled), 1 => cut, 1 => any::<String>()]
}

/// Every piece of what was found.
fn pieces<'a>(w: &Workload<'a>) -> Vec<&'a str> {
    let containers = [w.host, w.container, w.monitor].into_iter().flatten().map(|c| c.id);
    let others = [w.slice, w.unit, w.user.and_then(|u| u.unit), w.pod.map(|p| p.spelled)];
    containers.chain(others.into_iter().flatten()).collect()
}

proptest! {
    #[test]
    fn any_path_gives_pieces_of_itself(parts in vec(any_part(), 0..9), slashes in 0..3usize) {
        let path = "/".repeat(slashes) + &parts.join("/");
        let found = workload(&path);
        let whole = path.as_bytes().as_ptr_range();
        for piece in pieces(&found) {
            let range = piece.as_bytes().as_ptr_range();
            prop_assert!(whole.start <= range.start && range.end <= whole.end, "{piece:?} of {path:?}");
            prop_assert!(!piece.is_empty() && !piece.contains('/'), "{piece:?}");
        }
        if let Some(service) = service_of(&path) {
            prop_assert_eq!(found.unit, Some(service), "the engine and people are told the same unit");
        }
        prop_assert!(found.container.is_none() || found.monitor.is_none());
        prop_assert!(found.host.is_none() || found.pod.is_some());
        prop_assert!(!found.short().to_string().is_empty() || path.is_empty());
        let _ = unescape(&path);
    }
}

/// The property would be worth nothing if such paths never led to anything.
#[test]
fn such_paths_do_lead_to_pieces() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut seen = [0usize; 5];
    for _ in 0..2000 {
        let path = vec(any_part(), 0..9).new_tree(&mut runner).expect("parts").current().join("/");
        let w = workload(&path);
        let found = [w.user.is_some(), w.host.is_some(), w.pod.is_some(), w.container.is_some(), w.monitor.is_some()];
        seen.iter_mut().zip(found).for_each(|(n, found)| *n += usize::from(found));
    }
    assert!(seen.iter().all(|n| *n >= 5), "{seen:?}");
}
