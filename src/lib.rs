//! pgmq-gateway: PGMQ, the message queue inside PostgreSQL, over HTTP.
//!
//! The modules are layers; a test (`tests/it/layers.rs`) holds each to what it may use.

pub mod api;
pub mod app;
pub mod auth;
pub mod broker;
pub mod config;
pub mod dashboard;
pub mod domain;
pub mod embedded;
pub mod engine;
pub mod http;
pub mod server;
pub mod sqs;
pub mod store;
pub mod supabase;
pub mod telemetry;
