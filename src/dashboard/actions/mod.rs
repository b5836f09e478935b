//! What can be done to queues and messages: each with the right that it takes, a preview, and a line in the log of
//! who did what.

mod action;
mod audit;
mod messages;
mod queues;

pub(super) use action::Action;
pub(super) use audit::{Deed, Tally, audited};
pub(super) use messages::{Count, Messages, Outcome, Sweep, Work, count, perform};
pub(super) use queues::{QueueAction, perform_on_queue};
