//! What front ends keep of queues beside their settings: other names, attributes and tags.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

use crate::{
    domain::{Call, QueueName, Scope},
    store::{self, AttributesChange, IdOwner, NamedQueue, QueueAttributes},
};

use super::{Broker, Error, Result};

impl Broker {
    /// What is kept of a queue, as it was less than a second ago.
    pub async fn attributes(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
    ) -> Result<Arc<QueueAttributes>> {
        match self.attributes.get(queue) {
            Some(attributes) => Ok(attributes),
            None => self.fresh_attributes(call, queue).await,
        }
    }

    /// What is kept of a queue now.
    pub async fn fresh_attributes(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
    ) -> Result<Arc<QueueAttributes>> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let since = Instant::now();
            let queue = &queue;
            let found = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::queue_attributes(&mut conn, queue).await
            });
            let Some(found) = found.await?? else {
                broker.attributes.forget(queue);
                return Err(Error::QueueNotFound(queue.to_string()));
            };
            let found = Arc::new(found);
            broker.attributes.put(queue, since, &found);
            Ok(found)
        })
        .await
    }

    /// Changes what is kept of a queue; false, and nothing is changed, where it is not as it must be for that.
    pub async fn change_attributes(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        alias: String,
        change: AttributesChange,
    ) -> Result<bool> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(true, async move {
            let (queue, alias, change) = (&queue, &*alias, &change);
            let changed = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::change_queue_attributes(&mut conn, queue, alias, change).await
            });
            let changed = changed.await;
            broker.attributes.forget(queue);
            match changed?.map_err(Error::of_changing(queue))? {
                Some(false) => Err(Error::QueueNotFound(queue.to_string())),
                changed => Ok(changed.is_some()),
            }
        })
        .await
    }

    /// Whether it was noted less than so many seconds ago that a queue was emptied.
    pub async fn is_purged(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        pause_seconds: i32,
    ) -> Result<bool> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let queue = &queue;
            let found = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::is_purged(&mut conn, queue, pause_seconds).await
            });
            Ok(found.await??)
        })
        .await
    }

    /// Notes that a queue was emptied.
    pub async fn note_purge(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        alias: String,
    ) -> Result<()> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(true, async move {
            let (queue, alias) = (&queue, &*alias);
            let noted = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::note_purge(&mut conn, queue, alias).await
            });
            noted.await?.map_err(Error::of_changing(queue))
        })
        .await
    }

    /// Queues `within` what is allowed whose aliases begin with `prefix` and come behind `after`, at most `limit` of
    /// them.
    pub async fn list_aliases(
        &self,
        call: &Arc<Call>,
        prefix: String,
        after: String,
        within: &Scope,
        limit: i32,
    ) -> Result<Vec<NamedQueue>> {
        let (broker, call, within) = (self.clone(), Arc::clone(call), within.clone());
        self.run(false, async move {
            let _leave = broker.leave_to_list(&within, &call).await?;
            let (prefix, after, within) = (&*prefix, &*after, &within);
            let found = broker.on_catalogue(&call, "queues", |mut conn| async move {
                store::list_aliases(&mut conn, prefix, after, within, limit).await
            });
            Ok(found.await??)
        })
        .await
    }

    /// The queues `within` what is allowed whose dead letters go to a queue, behind the name `after`.
    pub async fn dead_letter_sources(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        after: String,
        within: &Scope,
        limit: i32,
    ) -> Result<Vec<NamedQueue>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        let (queue, within) = (queue.clone(), within.clone());
        self.run(false, async move {
            let _leave = broker.leave_to_list(&within, &call).await?;
            let (queue, after, within) = (&queue, &*after, &within);
            let found = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::dead_letter_sources(&mut conn, queue, after, within, limit).await
            });
            Ok(found.await??)
        })
        .await
    }

    /// Which queue a receipt was given out for, seen from this one; nobody's is what is no receipt.
    pub async fn owner_of_receipt(
        &self,
        call: &Arc<Call>,
        queue: &QueueName,
        receipt: &str,
    ) -> Result<IdOwner> {
        let Some(delivered) = self.delivery_of(receipt) else { return Ok(IdOwner::Nobody) };
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.clone());
        self.run(false, async move {
            let (queue, id) = (&queue, delivered.queue_id);
            let found = broker.on_catalogue(&call, queue.as_str(), |mut conn| async move {
                store::whose_id(&mut conn, queue, id).await
            });
            Ok(found.await??)
        })
        .await
    }

    /// The ids of queues, by their names, as the messages in them have it: of those that are there.
    pub async fn queue_ids(
        &self,
        call: &Arc<Call>,
        queues: BTreeSet<String>,
    ) -> Result<BTreeMap<String, i64>> {
        let (broker, call) = (self.clone(), Arc::clone(call));
        self.run(false, async move {
            let names: Vec<&str> = queues.iter().map(String::as_str).collect();
            let names = &*names;
            let found = broker.on_catalogue(&call, "queues", |mut conn| async move {
                store::queue_ids(&mut conn, names).await
            });
            let ids = found.await??;
            Ok(queues.into_iter().zip(ids).filter(|(_, id)| *id != 0).collect())
        })
        .await
    }

    /// What another protocol calls a queue; its own name where it has no other.
    pub async fn alias(&self, call: &Arc<Call>, queue: &str) -> Result<String> {
        let (broker, call, queue) = (self.clone(), Arc::clone(call), queue.to_owned());
        self.run(false, async move {
            let name = &*queue;
            let found = broker.on_catalogue(&call, name, |mut conn| async move {
                store::aliases(&mut conn, &[name]).await
            });
            let aliases = found.await??;
            Ok(aliases.into_iter().next().flatten().unwrap_or(queue))
        })
        .await
    }
}
