//! Who asks and what they may, and the only way from a request to the broker: a permit for what it wants
//! to do.
//!
//! The broker is private to this module. A handler gets at it with a [`QueuePermit`], a [`ScopePermit`] or
//! a [`MultiQueuePermit`], each of which says for what; one without does not compile.

mod caller;
mod gated_broker;
mod permit;
pub(crate) mod right;

pub(crate) use caller::{Caller, bearer, key_of};
pub(super) use caller::{recheck_credential, too_many, too_many_bytes};
pub use gated_broker::GatedBroker;
pub(crate) use permit::{MultiQueuePermit, QueuePermit, ScopePermit};
