//! The program: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use pgmq_gateway::app::{Cli, run};

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
