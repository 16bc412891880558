//! How engines spell containers and pods in the name of a directory. In: a name with the two above it. Out: what it
//! is.
//!
//! Where the spellings come from:
//! - `SLICE/PREFIX-ID.scope`: runc `getUnitName` (`libcontainer/cgroups/systemd`), from a `slice:prefix:id` of the
//!   engine: moby `WithCgroups` (`docker`; driver cgroupfs: `/docker/ID`), containerd `getCgroupsPath`
//!   (`cri-containerd`), CRI-O `CrioPrefix` (`crio`), podman `getOCICgroupPath` (`libpod`). Where the runtime works
//!   without systemd, `slice:prefix:id` is itself the directory's name.
//! - Monitors: CRI-O `MoveConmonToCgroup` (`crio-conmon-ID`), podman (`libpod-conmon-ID`), LXC (`lxc.monitor.`).
//! - podman, cgroupfs: `libpod_parent/libpod-ID`, with a directory of the (podman) pod's id in between
//!   (`platformRefresh`); `--cgroups=split`, as quadlets use it: `UNIT/libpod-payload-ID`.
//! - Pods: kubelet `cgroup_manager_linux.go` and `pod_container_manager_linux.go`: `kubepods/QOS/podUID`, or slices
//!   with `-` as `_`; the guaranteed have no level of their own; `--cgroup-root` comes before `kubepods` (kind:
//!   `kubelet`). A static pod has 32 digits (`applyDefaults`), which the API server shows as
//!   `kubernetes.io/config.hash`, not as uid.
//! - containerd's own: `/NAMESPACE/ID` (`oci.populateDefaultUnixSpec`). ECS: `/ecs/TASK/ID` or
//!   `ecstasks-TASK.slice/docker-ID.scope` (amazon-ecs-agent `BuildCgroupRoot`). Garden: `garden/HANDLE`, also below
//!   `good` or `bad` (paths in tests of OpenJDK, Datadog and Elastic agents).
//! - LXC `cgroups/cgroup.h`: `lxc.payload.NAME`; before 4.0 `lxc.payload/NAME` or `lxc/NAME`. A name that was taken
//!   gets `-N` appended, which cannot be told from a name.
//! - `machine-NAME.scope` (systemd-machined; libvirt: `machine-qemu\x2d1\x2dNAME.scope`),
//!   `systemd-nspawn@NAME.service`.
#![forbid(unsafe_code)]

use super::{Container, Pod, Qos, Runtime};

/// Digits of an engine's container id.
const ID_DIGITS: usize = 64;
/// Groups of a UUID, as pods have it.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];
/// Groups of a Garden handle, at least.
const HANDLE: [usize; 5] = [8, 4, 4, 4, 4];

/// A directory in a path.
#[derive(Clone, Copy, Default)]
pub(super) struct Place<'a> {
    /// Directories above it.
    pub(super) depth: usize,
    /// Name of its parent's parent, or nothing.
    pub(super) grand: &'a str,
    /// Name of its parent, or nothing.
    pub(super) parent: &'a str,
    /// Its own.
    pub(super) name: &'a str,
}

/// What a directory is named for.
pub(super) enum Found<'a> {
    /// A container.
    Container(Container<'a>),
    /// The process that watches over one.
    Monitor(Container<'a>),
}

/// The pod that a directory is named for.
pub(super) fn pod<'a>(place: &Place<'a>) -> Option<Pod<'a>> {
    if let Some(stem) = place.name.strip_suffix(".slice") {
        return pod_slice(stem);
    }
    if let Some((slice, _, _)) = colons(place.name) {
        return pod_slice(slice.strip_suffix(".slice")?);
    }
    let qos = match (place.grand, place.parent) {
        (_, "kubepods") => Qos::Guaranteed,
        ("kubepods", "burstable") => Qos::Burstable,
        ("kubepods", "besteffort") => Qos::BestEffort,
        _ => return None,
    };
    place.name.strip_prefix("pod").filter(|uid| is_uid(uid, '-')).map(|spelled| Pod { spelled, qos })
}

/// `[ROOT-]kubepods[-QOS]-podUID`. Paths with the dashes of the uid left in exist, too (fixtures of the Datadog agent).
fn pod_slice(stem: &str) -> Option<Pod<'_>> {
    let (root, rest) = stem.split_once("kubepods-")?;
    let class = |name| rest.strip_prefix(name);
    let (qos, rest) = match (class("burstable-"), class("besteffort-")) {
        (Some(rest), _) => (Qos::Burstable, rest),
        (_, Some(rest)) => (Qos::BestEffort, rest),
        _ => (Qos::Guaranteed, rest),
    };
    let spelled = rest.strip_prefix("pod").filter(|uid| is_uid(uid, '_') || is_uid(uid, '-'))?;
    (root.is_empty() || root.ends_with('-')).then_some(Pod { spelled, qos })
}

/// The container or monitor that a directory is named for.
pub(super) fn container<'a>(place: &Place<'a>) -> Option<Found<'a>> {
    if let Some(found) = lxc(place) {
        return Some(found);
    }
    if let Some((slice, prefix, id)) = colons(place.name) {
        return if slice.ends_with(".slice") && is_id(id) { prefixed(prefix, id) } else { None };
    }
    if is_id(place.name) {
        return bare(place).map(|runtime| Found::Container(Container { runtime, id: place.name }));
    }
    dashed(place.name).or_else(|| garden(place))
}

fn lxc<'a>(place: &Place<'a>) -> Option<Found<'a>> {
    let of = |id: &'a str| Container { runtime: Runtime::Lxc, id };
    let after = |prefix| place.name.strip_prefix(prefix).filter(|id: &&str| !id.is_empty());
    if let Some(id) = after("lxc.payload.") {
        return Some(Found::Container(of(id)));
    }
    if let Some(id) = after("lxc.monitor.") {
        return Some(Found::Monitor(of(id)));
    }
    match place.parent {
        "lxc" | "lxc.payload" if place.depth == 1 => Some(Found::Container(of(place.name))),
        "lxc.monitor" if place.depth == 1 => Some(Found::Monitor(of(place.name))),
        _ => None,
    }
}

/// `SLICE:PREFIX:ID`.
fn colons(name: &str) -> Option<(&str, &str, &str)> {
    let (rest, id) = name.rsplit_once(':')?;
    let (slice, prefix) = rest.rsplit_once(':')?;
    Some((slice, prefix, id))
}

/// `PREFIX-ID.scope`, or `PREFIX-ID` of those that write that.
fn dashed(name: &str) -> Option<Found<'_>> {
    let scope = name.strip_suffix(".scope");
    let (prefix, id) = scope.unwrap_or(name).rsplit_once('-').filter(|(_, id)| is_id(id))?;
    match (prefix, scope) {
        (_, Some(_)) | ("crio" | "crio-conmon" | "libpod" | "libpod-conmon", None) => prefixed(prefix, id),
        ("libpod-payload", None) => prefixed("libpod", id),
        _ => None,
    }
}

fn prefixed<'a>(prefix: &str, id: &'a str) -> Option<Found<'a>> {
    let runtime = match prefix.strip_suffix("-conmon").unwrap_or(prefix) {
        "docker" => Runtime::Docker,
        "cri-containerd" | "nerdctl" => Runtime::Containerd,
        "crio" => Runtime::Crio,
        "libpod" => Runtime::Podman,
        _ => Runtime::Unknown,
    };
    let found = Container { runtime, id };
    Some(if prefix.ends_with("-conmon") { Found::Monitor(found) } else { Found::Container(found) })
}

/// Whose an id is that stands alone. Below `libpod_parent` it is a pod of podman, and no container.
fn bare(place: &Place<'_>) -> Option<Runtime> {
    match (place.grand, place.parent) {
        (_, "libpod_parent") => None,
        (_, "docker") => Some(Runtime::Docker),
        ("ecs", _) if place.depth == 2 => Some(Runtime::Docker),
        ("" | "containerd.service", "default" | "k8s.io") => Some(Runtime::Containerd),
        _ => Some(Runtime::Unknown),
    }
}

fn garden<'a>(place: &Place<'a>) -> Option<Found<'a>> {
    let here = matches!((place.grand, place.parent), ("" | "garden.service", "garden") | ("garden", "good" | "bad"));
    let handle = here && starts_with_groups(place.name, '-', &HANDLE).is_some();
    handle.then_some(Found::Container(Container { runtime: Runtime::Garden, id: place.name }))
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this is an engine's container id.
pub(super) fn is_id(text: &str) -> bool {
    is_hex(text, ID_DIGITS)
}

/// A UUID, or the 32 digits of a static pod.
fn is_uid(text: &str, separator: char) -> bool {
    is_hex(text, 32) || starts_with_groups(text, separator, &UUID) == Some("")
}

/// What follows groups of hex digits.
fn starts_with_groups<'a>(text: &'a str, separator: char, groups: &[usize]) -> Option<&'a str> {
    let mut rest = text;
    for (n, digits) in groups.iter().enumerate() {
        rest = if n == 0 { rest } else { rest.strip_prefix(separator)? };
        let (group, after) = rest.split_at_checked(*digits)?;
        rest = is_hex(group, *digits).then_some(after)?;
    }
    Some(rest)
}
