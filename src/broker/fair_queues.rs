//! Queues that come to be fair, as their senders name groups.

use std::sync::Arc;

use tracing::{debug, info};

use crate::domain::{QueueName, SettingsChange};

use super::Broker;

impl Broker {
    /// Has the groups of a queue take turns from now on, beside whatever else goes on: there is an index to be
    /// made first, for which nobody waits. A queue that cannot have one stays as it is.
    pub fn make_fair(&self, queue: &QueueName) {
        if !self.fair_tries.begin(queue) {
            return;
        }
        let (broker, queue) = (self.clone(), queue.clone());
        self.tasks.spawn(async move {
            let settings = SettingsChange { fair: Some(Some(true)), ..SettingsChange::default() };
            match broker.change_settings(&Arc::default(), queue.clone(), settings).await {
                Ok(_) => info!(%queue, "its groups take turns from now on, as messages name some"),
                Err(error) => debug!(%queue, %error, "its groups cannot take turns"),
            }
        });
    }
}
