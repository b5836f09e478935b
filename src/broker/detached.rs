//! Work of several steps that is done to its end, whoever waits for it.

use super::{Broker, Error, Result};

impl Broker {
    /// Does work that a client does not cancel by leaving. A shutdown waits for it, so it has to end by itself.
    pub async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        self.tasks.spawn(work).await.map_err(|panic| Error::Internal(panic.into()))
    }
}
