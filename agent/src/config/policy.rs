//! Policy: what the agent may do, to what, when, and how often. In: the validated parts of the configuration
//! (`raw_policy`). Out: a [`Policy`] for `decide`, `heal` and `check`. Names are matched here and nowhere else.

use std::net::IpAddr;

use crate::model::{
    action::{Limit, Verb},
    fault::{Class, Kind, Severity},
};

/// Plans one policy may have: a name's matches are kept as the bits of one word.
pub const MAX_PLANS: usize = 64;
/// Steps one plan may have.
pub const MAX_STEPS: usize = 16;
/// The largest `budget.actions`.
pub const MAX_ACTIONS: usize = 1000;

/// Everything that allows and everything that brakes.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Nothing outside it is ever touched; empty means nothing.
    pub scope: Scope,
    /// Never touched, even inside the scope.
    pub protected: Vec<Protected>,
    /// In the order of the file; the first that matches a fault wins.
    pub plans: Vec<Plan>,
    /// How much, how often, how fresh.
    pub budget: Budget,
}

impl Policy {
    /// Whether a cgroup path may be in scope: worth preparing for, not yet a permission.
    pub fn covers(&self, path: &str) -> bool {
        let is_unit = |part: &str| part.ends_with(".service") && self.scope.units.iter().any(|unit| unit.matches(part));
        self.scope.cgroups.iter().any(|root| is_within(path, root)) || path.split('/').any(is_unit)
    }
}

/// What may be touched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Services of this node's own manager, with all that runs in their cgroups.
    pub units: Vec<Pattern>,
    /// Cgroup paths, each with everything below it; never `/`.
    pub cgroups: Vec<String>,
    /// Block devices; no verb acts on them yet.
    pub devices: Vec<Pattern>,
    /// Networks of remote addresses; no verb acts on them yet.
    pub peers: Vec<Network>,
}

impl Scope {
    /// Whether it names nothing, so that nothing can be done.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty() && self.cgroups.is_empty() && self.devices.is_empty() && self.peers.is_empty()
    }
}

/// What must not be touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protected {
    /// A unit of any kind that has a cgroup, with all that runs in it.
    Unit(Pattern),
    /// A cgroup path, with everything below it.
    Cgroup(String),
}

/// What to do about a fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The kind of fault.
    pub on: Kind,
    /// Name of the entity: unit, cgroup path or executable.
    pub entity: Option<Pattern>,
    /// Class of the fault.
    pub class: Option<Class>,
    /// At least this bad.
    pub severity: Severity,
    /// Tried in this order, each when the one before it failed; at least one.
    pub steps: Vec<Step>,
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What.
    pub verb: Verb,
    /// How long the entity is looked at after it, ns.
    pub verify_ns: u64,
    /// The action must be over within this time, ns.
    pub timeout_ns: u64,
    /// `limit-cgroup`: the limits.
    pub limit: Limit,
    /// `freeze-cgroup`: how long before the decider thaws it again, ns; 0 for other verbs.
    pub hold_ns: u64,
}

/// The brakes that are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// This many actions ...
    pub actions: usize,
    /// ... within this time, ns.
    pub window_ns: u64,
    /// Quiet time of one target after an action, ns; does not apply between the steps of one plan.
    pub cooldown_ns: u64,
    /// Evidence older than this moves nothing, ns.
    pub evidence_max_age_ns: u64,
    /// Distinct targets acted upon within `window_ns`.
    pub blast_count: usize,
    /// The same as a share of the known targets in scope, per cent; one target is always allowed.
    pub blast_share_percent: u8,
}

/// A name in which `*` stands for any characters, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// As typed.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// As typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name fits. Linear but for the stars: falls back to the latest star only (a greedy match of an
    /// earlier star can always be moved to the latest one).
    pub fn matches(&self, name: impl AsRef<[u8]>) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_ref());
        let (mut p, mut n) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            if pattern.get(p) == Some(&b'*') {
                star = Some((p, n));
                p += 1;
            } else if pattern.get(p) == Some(&name[n]) {
                (p, n) = (p + 1, n + 1);
            } else if let Some((at, from)) = star {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

/// A network of addresses in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// From `address/bits` or a single address. `None` unless it is one with `bits` from 1 on and nothing set
    /// behind them: `0.0.0.0/0` is a whole world, and `10.1.2.3/8` is a typing error.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |b| b.parse().ok())?;
        let network = Self { address, bits };
        ((1..=most).contains(&bits) && network.masked(address) == number(address)).then_some(network)
    }

    /// Whether the address is in it; the families are never mixed.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && self.masked(address) == number(self.address)
    }

    fn masked(&self, address: IpAddr) -> u128 {
        number(address) & (u128::MAX << (128 - u32::from(self.bits)))
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// The bits of an address from the top down, so that one mask serves both families.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// Whether `path` is `root` or lies below it.
pub fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, fits) in [
            ("web.service", "web.service", true),
            ("web.service", "web2.service", false),
            ("batch-*.service", "batch-.service", true),
            ("batch-*.service", "batch-a.service.service", true),
            ("batch-*.service", "batch-a.scope", false),
            ("*a*b", "xxaxxbxb", true),
            ("*a*b", "xxaxxbx", false),
            ("/kube/*", "/kube/pod/1", true),
            ("", "", true),
            ("**", "", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn networks_hold_their_own_family() {
        let net = |text| Network::parse(text).expect(text);
        let ip = |text: &str| text.parse::<IpAddr>().expect(text);
        assert!(net("10.0.0.0/8").contains(ip("10.9.8.7")) && !net("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(net("::1").contains(ip("::1")) && !net("::1").contains(ip("::2")));
        assert!(!net("a00::/8").contains(ip("10.0.0.1")), "the same bits in the other family");
        for bad in ["0.0.0.0/0", "::/0", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "host", "", "1.2.3.4/"] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_path_is_within_its_subtree_only() {
        assert!(is_within("/a", "/a") && is_within("/a/b", "/a"));
        assert!(!is_within("/ab", "/a") && !is_within("/", "/a"));
    }
}
