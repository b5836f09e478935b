//! Work on much text at once, beside the threads that serve everybody.

use std::sync::Arc;

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{Error, Result};

/// Bytes from which on work on text is done apart: a millisecond or so.
const LARGE: u64 = 256 << 10;

/// Where such work is done: on half of the processors, so that what is small goes on meanwhile. A clone
/// is the same place.
#[derive(Clone, Debug)]
pub struct CpuPool {
    places: Arc<Semaphore>,
}

impl Default for CpuPool {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { places: Arc::new(Semaphore::new((processors / 2).max(1))) }
    }
}

impl CpuPool {
    /// Does work on so many bytes, here if they are few.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if bytes < LARGE {
            return Ok(work());
        }
        // It is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let done = spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        done.await.map_err(|panic| Error::Internal(panic.into()))
    }
}
