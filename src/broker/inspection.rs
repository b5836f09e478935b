//! What only people ask for: how a queue's table is, and which keys there are.

use std::sync::Arc;

use crate::{
    domain::{Call, QueueName},
    store::{self, CleanupHolder, ListedKey, TableHealth},
};

use super::{Broker, Error, Result, work::Kind};

/// The most keys that are listed.
const MAX_KEYS: i32 = 1_000;

impl Broker {
    /// How a queue's table is, and who keeps it from being cleaned up.
    pub async fn table_health(
        &self,
        call: &Arc<Call>,
        queue: QueueName,
    ) -> Result<(TableHealth, Vec<CleanupHolder>)> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let queue = &queue;
            let policy = broker.policies.of(queue).await?;
            let looked =
                broker.on_queue(Kind::Show, queue, &policy, &call, |mut conn| async move {
                    let health = store::table_health(&mut conn, queue).await?;
                    Ok((health, store::cleanup_holders(&mut conn).await?))
                });
            looked.await?.map_err(Error::on(queue))
        })
        .await
    }

    /// The keys of the database, those in force first; never what they are.
    pub async fn listed_keys(&self, call: &Arc<Call>) -> Result<Vec<ListedKey>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            Ok(store::shown_keys(&mut *broker.connect(&call).await?, MAX_KEYS).await?)
        })
        .await
    }

    /// Loads the settings of a queue where they are old, and those of all where this gateway has changed some: what
    /// is shown is to be what was just set.
    pub async fn refresh_settings(&self, queue: &QueueName) {
        self.refresh_changed_settings().await;
        // Whoever needs them next is told what is wrong.
        let _ = self.policies.of(queue).await;
    }

    /// The same of no queue in particular.
    pub async fn refresh_all_settings(&self) {
        self.refresh_changed_settings().await;
        let _ = self.policies.ensure_fresh().await;
    }

    /// Loads the settings of queues only where this gateway has changed some: mostly nothing is asked for it.
    pub async fn refresh_changed_settings(&self) {
        self.policies.ensure_own_changes().await;
    }
}
