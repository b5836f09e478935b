//! The composition root: commands, and the gateway put together.

mod background_tasks;
mod capacity;
mod check;
mod cli;
mod database;
mod dry_run;
mod gateway;
mod key_sync;
mod keys;
mod memory_limit;
mod output;
mod pages;
mod preflight;
mod serve;

pub use cli::{Cli, run};
pub use database::{Database, StartError};
pub use gateway::Gateway;
