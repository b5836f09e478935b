//! The program: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use pgmq_gateway::app::{Cli, run};

/// Many small allocations on several threads, kept in little memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
