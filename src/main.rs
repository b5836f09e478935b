//! The program: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use pgmq_gateway::app::{Cli, run};
use tikv_jemallocator::Jemalloc;

/// A request makes dozens of small allocations, which cost less here than with the system's, and a
/// connection that waits holds buffers of which this one keeps only what was written to.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What the allocator is set to, as it looks for it: a request takes some 20 kB, and what a thread keeps for
/// the next ones is gone through each MiB in place of each 64 KiB.
#[expect(unsafe_code, reason = "the allocator reads its settings from this symbol")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 29] = b"tcache_gc_incr_bytes:1048576\0";

#[tokio::main]
async fn main() -> ExitCode {
    run(Cli::parse()).await
}
