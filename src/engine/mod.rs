//! Getting messages to clients: who waits, who is served, and what is given back.

mod delivery;
mod receiver;
mod unreadable;
mod waiters;

pub use delivery::{Delivery, Lease};
pub use receiver::{Receiver, ReceiverParts};
pub use unreadable::UnreadableSearch;
