//! What every front end shares: who asks and what they may, admission, origin rules, the request's log
//! line, bounded bodies, and what is refused before a front end gives it the form of its own errors.
//!
//! A front end describes itself as a [`FrontEnd`], makes its routes over a state of its own that holds a
//! [`GatedBroker`], and puts the shared layers around them with [`layered`]. A handler lets its caller in
//! ([`Caller::authenticate`], with whatever credential it found), and gets a permit for what it wants to do
//! ([`QueuePermit`], …), which has the broker.

mod access;
mod admission;
mod base_path;
mod body;
mod context;
mod front_end;
mod gate;
mod guard;
mod host;
mod layers;
mod leased_body;
mod newline;
mod origin;
mod query;
mod rejection;
mod request_log;
mod request_scope;
mod response;
mod unread;
mod unreserved;
mod untaken;
mod unwanted;
mod wire_error;

pub use access::GatedBroker;
pub(crate) use access::{
    Caller, MultiQueuePermit, QueuePermit, ScopePermit, bearer, key_of, right,
};
pub(crate) use admission::{Exhausted, MemoryPermit, Place, Places};
pub(crate) use base_path::BasePath;
pub(crate) use body::{read, read_up_to};
pub(crate) use context::{RequestContext, context};
pub(crate) use front_end::FrontEnd;
pub use gate::{Gate, GateParts};
pub(crate) use guard::Served;
pub use host::Hosts;
pub(crate) use layers::layered;
pub(crate) use leased_body::{DeliveryCount, LeasedBody};
pub use origin::OriginPolicy;
pub(crate) use query::check_query;
pub(crate) use rejection::Rejection;
pub(crate) use response::{
    any_room, json, json_of_done, long_json, make_room, room_for, room_for_bytes, room_for_written,
    room_of_taken, room_to_take, short_json,
};
pub(crate) use unreserved::UNRESERVED;
pub(crate) use untaken::in_its_place;
pub(crate) use wire_error::{WireError, error_response, shorten, shortened};
