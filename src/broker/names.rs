//! Names that may mean another queue than the one that is called so.

use std::sync::Arc;

use crate::{
    domain::{Call, QueueName},
    store,
};

use super::{Broker, Error, QueueConn, Result, policies::Policy};

impl Broker {
    /// A connection for work on a queue outside the lanes, once its name is known to mean that queue
    /// alone.
    pub(super) async fn open(
        &self,
        queue: &QueueName,
        policy: &Policy,
        call: &Arc<Call>,
    ) -> Result<QueueConn> {
        let ambiguity = ambiguity(queue, policy);
        let permits = self.permits(Some(queue), call).await?;
        let mut conn = self.db.acquire(call).await?;
        match ambiguity {
            Some(ambiguity) if !store::exists(&mut conn, queue).await? => Err(ambiguity),
            _ => Ok(QueueConn { conn, _permits: permits }),
        }
    }

    /// Refuses a name that would reach the table of another queue.
    pub(super) async fn check_name_unambiguous(
        &self,
        queue: &QueueName,
        policy: &Policy,
        call: &Arc<Call>,
    ) -> Result<()> {
        match ambiguity(queue, policy) {
            // Apart, as its room would be taken by every request that waits, and hardly any comes here.
            Some(_) => Box::pin(self.open(queue, policy, call)).await.map(drop),
            None => Ok(()),
        }
    }
}

/// What is to be said of a name unless there is a queue of exactly this name: PGMQ folds upper
/// case away, so `Orders` would reach the table of `orders`, and the other way round.
fn ambiguity(queue: &QueueName, policy: &Policy) -> Option<Error> {
    match queue.check_creatable() {
        Err(reason) => Some(Error::invalid_name(queue, reason)),
        Ok(()) if policy.is_folded => Some(Error::QueueNotFound(queue.to_string())),
        Ok(()) => None,
    }
}
