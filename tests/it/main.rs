//! The gateway as its clients see it: over real sockets, on a real PostgreSQL.

#![expect(unreachable_pub, reason = "a test binary has no callers outside")]
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

mod archive;
mod auth;
mod bindings;
mod browsers;
mod callers;
mod capacity;
mod database_tls;
mod dead_letters;
mod departures;
mod engine;
mod errors;
mod expansion;
mod fifo;
mod filters;
mod floods;
mod healthcheck;
mod hostile;
mod idempotency;
mod jwt;
mod keys;
mod layers;
mod leftovers;
mod lifecycle;
mod limits;
mod listeners;
mod long_poll;
mod memory;
mod messages;
mod metrics;
mod oddities;
mod older_pgmq;
mod openapi;
mod operations;
mod outages;
mod parity;
mod permissions;
mod poison;
mod postman;
mod queues;
mod races;
mod readme;
mod receipts;
mod rights;
mod roles;
mod schemathesis;
mod settings;
mod settle;
mod several_gateways;
mod shares;
mod starts;
mod storable;
mod tls;
mod topics;
mod transactions;
mod unwanted_bodies;
mod upgrade;
