//! What stands in a request, as a handler's signature asks for it.

mod body;
mod idempotency;
mod not_json;
mod path;
mod permit;
mod prefer;
mod query;

pub(super) use body::{Json, NoBody, OptionalJson};
pub(super) use idempotency::{OnceJson, mark};
pub(super) use path::{OneMessage, RoutingKey, check_text};
pub(super) use permit::{ForOperations, Operator};
pub(super) use prefer::{PreferHeader, Return, minimal};
pub(super) use query::{NoParameters, Query, parsed};
