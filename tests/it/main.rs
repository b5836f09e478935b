//! The gateway as its clients see it: over real sockets, on a real PostgreSQL.

#![expect(unreachable_pub, reason = "a test binary has no callers outside")]
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

mod engine;
mod errors;
mod layers;
mod lifecycle;
mod long_poll;
mod messages;
mod openapi;
mod operations;
mod outages;
mod poison;
mod queues;
mod readme;
mod roles;
mod several_gateways;
