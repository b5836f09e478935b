//! Open files: every client is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::debug;

/// Raises the limit on open files as far as the system lets a process do that by itself: at first it
/// is often 1024.
pub fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most));
    match raised {
        Ok(limit) => debug!(limit, "open files"),
        Err(error) => debug!(%error, "the limit on open files stays as it is"),
    }
}
