//! Open files: every client is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::debug;

/// Raises the limit on open files as far as the system lets a process do that by itself: at first it
/// is often 1024. Returns how many there may be now.
pub fn raise_file_limit() -> Option<u64> {
    let (before, most) = getrlimit(Resource::RLIMIT_NOFILE)
        .inspect_err(|error| debug!(%error, "the limit on open files is unknown"))
        .ok()?;
    match setrlimit(Resource::RLIMIT_NOFILE, most, most) {
        Ok(()) => Some(most),
        Err(error) => {
            debug!(%error, "the limit on open files stays as it is");
            Some(before)
        }
    }
}
