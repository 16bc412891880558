//! What runs in a cgroup. In: its path in any hierarchy, v1 or v2. Out: slice, unit, user, container and pod, as pieces
//! of that path: nothing is allocated and nothing is asked, so that a dead cgroup reads like a living one.
//!
//! Told from the outside in. The *outermost* container is the one that this node's engine can be asked about; what
//! lies deeper was named by its owner. A pod is the exception, since a node may itself be a container (kind, minikube):
//! then [`Workload::host`] is that container, and the pod is that container's word. Likewise all below `user@N.service`
//! is named by that user, and [`Workload::user`] says so. What has an unknown form is left out, or is a container of
//! runtime [`Runtime::Unknown`] when its name is an engine's 64-digit id.
#![forbid(unsafe_code)]

use std::{borrow::Cow, fmt};

use self::spelling::{Found, Place, container, is_id, pod};
use super::units::manager_unit;

mod spelling;

/// Digits of a container id that people are shown, as `docker ps` does.
const SHORT_DIGITS: usize = 12;

/// Which engine a container is known to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker Engine.
    Docker,
    /// containerd, through CRI, `ctr` or nerdctl.
    Containerd,
    /// CRI-O.
    Crio,
    /// Podman.
    Podman,
    /// LXC, LXD or Incus.
    Lxc,
    /// `systemd-nspawn@.service`.
    Nspawn,
    /// Registered with systemd-machined: nspawn started by hand, or a virtual machine of libvirt.
    Machine,
    /// Cloud Foundry's Garden.
    Garden,
    /// The path does not tell: driver cgroupfs below a pod, or a `--cgroup-parent`.
    Unknown,
}

/// A container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Container<'a> {
    /// Its engine.
    pub runtime: Runtime,
    /// 64 hex digits, or the name where the engine uses names, with systemd's escapes (see [`unescape`]).
    pub id: &'a str,
}

/// Quality of service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Requests equal limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// None.
    BestEffort,
}

/// A pod of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod<'a> {
    /// As the path spells it: systemd's driver has `_` for `-`. [`Pod::uid`] is what the API server calls it.
    pub spelled: &'a str,
    /// Its class.
    pub qos: Qos,
}

/// A user as logind sorts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// Numeric id.
    pub id: u32,
    /// Unit of the user's own manager; `None` for what runs in a session.
    pub unit: Option<&'a str>,
}

/// What runs in a cgroup, outermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload<'a> {
    /// The path that was asked about.
    pub path: &'a str,
    /// Innermost slice of the node's manager.
    pub slice: Option<&'a str>,
    /// Service or scope of the node's manager.
    pub unit: Option<&'a str>,
    /// Whose session or user manager it belongs to.
    pub user: Option<User<'a>>,
    /// The container that the pod's node itself is.
    pub host: Option<Container<'a>>,
    /// Pod.
    pub pod: Option<Pod<'a>>,
    /// Container: below the pod if there is one.
    pub container: Option<Container<'a>>,
    /// The container that is watched over from here, by a process outside it.
    pub monitor: Option<Container<'a>>,
}

/// Takes a path apart. Any text will do; what has no known form is left out.
pub fn workload(path: &str) -> Workload<'_> {
    let (slice, unit) = (own_slice(path), own_unit(path));
    let container = machine(path, unit);
    let user = user(path);
    let mut found = Workload { path, slice, unit, user, host: None, pod: None, container, monitor: None };
    let mut place = Place::default();
    for name in parts(path) {
        place = Place { grand: place.parent, parent: place.name, name, ..place };
        found.look_at(&place);
        place.depth += 1;
    }
    found
}

impl<'a> Workload<'a> {
    fn look_at(&mut self, place: &Place<'a>) {
        if self.pod.is_none()
            && let Some(pod) = pod(place)
        {
            self.pod = Some(pod);
            self.host = self.container.take();
        }
        if self.container.is_some() || self.monitor.is_some() {
            return;
        }
        match container(place) {
            Some(Found::Container(container)) => self.container = Some(container),
            Some(Found::Monitor(container)) => self.monitor = Some(container),
            None => {}
        }
    }

    /// A name for people: `pod UID/0123456789ab`, `container 0123456789ab`, a unit, or the path.
    pub fn short(self) -> impl fmt::Display + 'a {
        Short(self)
    }
}

impl<'a> Pod<'a> {
    /// The uid as the API server prints it.
    pub fn uid(self) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| {
            for (n, group) in self.spelled.split('_').enumerate() {
                f.write_str(if n == 0 { "" } else { "-" })?;
                f.write_str(group)?;
            }
            Ok(())
        })
    }
}

impl<'a> Container<'a> {
    /// The first digits of an id, or the whole name without escapes.
    pub fn short_id(self) -> Cow<'a, str> {
        match self.id.get(..SHORT_DIGITS) {
            Some(first) if is_id(self.id) => Cow::Borrowed(first),
            _ => unescape(self.id),
        }
    }
}

struct Short<'a>(Workload<'a>);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Workload { path, slice, unit, user, pod, container, monitor, .. } = self.0;
        let (of, inner) = if container.is_some() { ("", container) } else { ("monitor of ", monitor) };
        match (pod, inner) {
            (Some(pod), Some(inner)) => return write!(f, "{of}pod {}/{}", pod.uid(), inner.short_id()),
            (Some(pod), None) => return write!(f, "pod {}", pod.uid()),
            (None, Some(inner)) => return write!(f, "{of}container {}", inner.short_id()),
            (None, None) => {}
        }
        match user {
            Some(User { id, unit: Some(unit) }) => write!(f, "{unit} of user {id}"),
            _ => f.write_str(unit.or(slice).unwrap_or(path)),
        }
    }
}

/// Undoes `\xHH`, which systemd writes for what a unit's name cannot have (unit_name_escape). The result is shown on
/// terminals: a name that hides control characters stays as it is. Bytes that are no UTF-8 become U+FFFD.
pub fn unescape(name: &str) -> Cow<'_, str> {
    let mut rest = name.as_bytes();
    let mut plain = Vec::new();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = escaped(rest);
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { rest.get(4..).unwrap_or_default() } else { tail };
    }
    let text = String::from_utf8_lossy(&plain);
    if text == name || text.contains(char::is_control) { Cow::Borrowed(name) } else { Cow::Owned(text.into_owned()) }
}

/// The byte that a text begins with in escaped form.
fn escaped(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// Innermost of the slices that a path begins with.
fn own_slice(path: &str) -> Option<&str> {
    parts(path).take_while(|part| part.ends_with(".slice")).last()
}

/// Service or scope of the manager at the root of a path; like a service, a scope has only slices above it.
fn own_unit(path: &str) -> Option<&str> {
    let service = manager_unit(path).map(|unit| unit.name);
    let first = || parts(path).find(|part| !part.ends_with(".slice"));
    service.or_else(|| first().filter(|part| part.ends_with(".scope")))
}

/// By `user.slice/user-N.slice/` and, for the unit of the user's manager, `user@N.service/` (user@.service(5)).
fn user(path: &str) -> Option<User<'_>> {
    let mut parts = parts(path);
    let slice = parts.next().filter(|part| *part == "user.slice").and_then(|_| parts.next())?;
    let id = user_id(slice.strip_prefix("user-")?.strip_suffix(".slice")?)?;
    let manager = manager_unit(path).filter(|unit| {
        let instance = unit.name.strip_prefix("user@").and_then(|name| name.strip_suffix(".service"));
        instance.and_then(user_id) == Some(id)
    });
    let unit = manager.and_then(|unit| path.strip_prefix(unit.path)).and_then(own_unit);
    Some(User { id, unit })
}

/// A number as logind writes it: no sign, no leading zero.
fn user_id(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// What is registered with systemd-machined, or is about to be. Only units of the node's manager count.
fn machine<'a>(path: &str, unit: Option<&'a str>) -> Option<Container<'a>> {
    let unit = unit?;
    let named = |prefix, suffix| unit.strip_prefix(prefix)?.strip_suffix(suffix).filter(|id: &&str| !id.is_empty());
    if let Some(id) = named("systemd-nspawn@", ".service") {
        return Some(Container { runtime: Runtime::Nspawn, id });
    }
    let id = named("machine-", ".scope").filter(|_| parts(path).next() == Some("machine.slice"))?;
    Some(Container { runtime: Runtime::Machine, id })
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
