//! The composition root: commands, and the gateway put together.

mod check;
mod cli;
mod database;
mod doorkeeper;
mod gateway;
mod keys;
mod parts;
mod serve;

pub use cli::{Cli, run};
pub use database::{Database, StartError};
pub use gateway::Gateway;
