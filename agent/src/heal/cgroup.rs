//! Cgroups under the hands. In: a hierarchy, a path and the id that was meant; out: frozen, thawed, limited, emptied.
//!
//! A path is looked at once, to open the directory; from then on everything goes through that descriptor, so that a
//! cgroup that was removed and made again under the same name can never be hit. Every change first reads what was there
//! ([`Undo`]), and is written down before it is made.
//!
//! Not used: a crate (files are all there is), `open_by_handle_at` (needs CAP_DAC_READ_SEARCH and saves one walk).

mod dir;
mod kill;
mod knob;
mod limit;
mod place;
mod prepared;
#[cfg(test)]
mod tests;

pub use dir::Dir;
pub use knob::{Change, Knob, Restored, Undo};
pub use place::{Place, Target, find};
pub use prepared::{Prepared, prepare};

pub(in crate::heal) use knob::own_freeze_flag;
pub(in crate::heal) use prepared::freezers;
