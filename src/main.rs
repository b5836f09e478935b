//! The program: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use pgmq_gateway::app::{Cli, run};
use tikv_jemallocator::Jemalloc;

/// A request makes dozens of small allocations, which cost less here than with the system's, and a
/// connection that waits holds buffers of which this one keeps only what was written to.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
