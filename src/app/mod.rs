//! The composition root: commands, and the gateway put together.

mod capacity;
mod check;
mod cli;
mod database;
mod doorkeeper;
mod dry_run;
mod gateway;
mod keys;
mod memory_limit;
mod parts;
mod preflight;
mod serve;

pub use cli::{Cli, run};
pub use database::{Database, StartError};
pub use gateway::Gateway;
