//! The hands: a [`crate::model::action::Request`] in, something done to this node and a `Done` out, with a journal
//! written before and after. What is decided is none of their business; what they refuse on their own account (PID 1,
//! kernel threads, the agent, its guardian, a name that means somebody else by now) they refuse a second time here.
//!
//! Two ways lead in: the reactor's own thread through [`handles`] prepared before, and the executor for all that may
//! block. What was frozen or limited is undone by [`guardian`] within a second when the agent dies, or by [`release`].

pub mod cgroup;
pub mod error;
pub mod executor;
pub mod guardian;
pub mod handles;
pub mod journal;
pub mod live;
pub mod pidfd;
pub mod process;
pub mod protect;
pub mod release;
pub mod restore;
pub mod systemd;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod refusals;

pub use error::HandError;
pub use protect::Protection;
