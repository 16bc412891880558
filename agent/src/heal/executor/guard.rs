//! What the executor refuses on its own account, however the request came about. In: names, and who is alive. Out: a
//! [`Reason`].

use crate::{
    attribution::units::service_of,
    clock::monotonic_ns,
    config::policy::Protected,
    model::action::{Reason, Request, Verb},
};

use super::{Standing, names::Named};
use crate::heal::Protection;

/// Who is never touched.
#[derive(Clone, Debug)]
pub struct Guard {
    /// `protected` of the policy.
    pub protected: Vec<Protected>,
    /// PID 1, the agent, its guardian.
    pub pids: Protection,
    /// The agent's own unit, if it is one.
    pub own_unit: Option<String>,
}

impl Guard {
    /// With the agent's own unit, from `/proc/self/cgroup`.
    pub fn new(protected: Vec<Protected>, pids: Protection) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // The service manager's tree: the unified one, or `name=systemd` beside v1 controllers.
        let own_unit = own.lines().find_map(|line| service_of(line.splitn(3, ':').nth(2)?)).map(str::to_owned);
        Self { protected, pids, own_unit }
    }

    /// By the names in the request.
    pub(super) fn judge(&self, named: &Named) -> Result<(), Reason> {
        let refused = match named {
            Named::Unit(name) => self.is_own(name) || self.protected.iter().any(|guarded| covers_unit(guarded, name)),
            Named::Cgroup { path, .. } => self.holds(path),
        };
        if refused { Err(Reason::Protected) } else { Ok(()) }
    }

    /// By what the service manager says of a unit: where it is, and who runs it.
    pub(super) fn judge_unit(&self, cgroup: &str, main_pid: u32) -> Result<(), Reason> {
        let runs = main_pid != 0 && self.pids.judge(main_pid).is_err();
        if runs || (!cgroup.is_empty() && self.holds(cgroup)) { Err(Reason::Protected) } else { Ok(()) }
    }

    fn is_own(&self, unit: &str) -> bool {
        self.own_unit.as_deref() == Some(unit)
    }

    /// Whether a path is, lies in, or holds something protected.
    fn holds(&self, path: &str) -> bool {
        path.split('/').any(|part| self.is_own(part))
            || self.protected.iter().any(|guarded| match guarded {
                Protected::Unit(_) => path.split('/').any(|part| covers_unit(guarded, part)),
                Protected::Cgroup(root) => is_within(path, root) || is_within(root, path),
            })
    }
}

fn covers_unit(guarded: &Protected, name: &str) -> bool {
    matches!(guarded, Protected::Unit(pattern) if !name.is_empty() && pattern.matches(name))
}

fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The brakes that time moves: asked when the request comes, and again right before the hand moves.
pub(super) fn still_due(request: &Request, standing: &Standing) -> Result<(), Reason> {
    if monotonic_ns().saturating_sub(request.evidence_ns) > request.evidence_max_age_ns {
        return Err(Reason::EvidenceTooOld);
    }
    // What undoes is due as long as something is to be undone.
    if request.verb != Verb::ThawCgroup && !standing.stands(request.fault) {
        return Err(Reason::FaultCleared);
    }
    Ok(())
}
