//! Admission: how much of the gateway all requests together, and those of one caller, may take.

mod caller_usage;
mod concurrency;
mod memory;
mod places;
mod refusals;

pub(crate) use caller_usage::CallerUsage;
pub(crate) use concurrency::{ConcurrencyLimit, Full, InFlightGuard, RequestLimits};
pub(crate) use memory::{Exhausted, MemoryBudget, MemoryPermit};
pub(crate) use places::{Place, Places};
pub(crate) use refusals::{HeldBack, Refusals};
