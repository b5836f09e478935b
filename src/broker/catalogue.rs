//! Work on what there is to know of queues beside their messages.

use std::{future::Future, sync::Arc};

use crate::{domain::Call, store};

use super::{Broker, QueueConn, Result, retry::Retry, work::Kind};

impl Broker {
    /// Does work that is about no messages, but about what is written down of queues, as [`Broker::on_queue`] does
    /// work on messages: again if others undid it, and for a while where something is locked, such as PGMQ's list
    /// of queues while it is upgraded. What goes by the same name waits together.
    pub(super) async fn on_catalogue<T, F>(
        &self,
        call: &Arc<Call>,
        name: &str,
        work: impl Fn(QueueConn) -> F,
    ) -> Result<store::Result<T>>
    where
        F: Future<Output = store::Result<T>>,
    {
        let mut retry = Retry::unknown(self, Kind::Catalogue, name);
        loop {
            let turn = match retry.turn().await {
                Ok(turn) => turn,
                Err(error) => return Ok(Err(error)),
            };
            let outcome = work(self.connect(call).await?).await;
            drop(turn);
            match &outcome {
                Err(error) if retry.is_worth_it(error).await => {}
                _ => return Ok(outcome),
            }
        }
    }
}
