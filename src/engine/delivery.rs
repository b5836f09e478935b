//! Messages on their way to a client, and their return if it has gone.

use std::{fmt, sync::Arc};

use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::{
    domain::{Call, DeliveryId, Message, QueueName, fitting},
    store::{self, Db},
};

use super::{LockBackoff, Shared, given_back::GivenBack};

/// Messages that are leased to one client.
#[derive(Debug)]
pub struct Delivery {
    /// What to deliver, in the order it was sent.
    pub messages: Vec<Message>,
    /// Gives them back unless it is told that they were taken.
    pub lease: Lease,
}

/// The return ticket of a delivery: dropped without [`Lease::taken`], it makes the messages visible
/// at once, so that a client that left while it waited costs nobody a visibility timeout.
#[derive(Default)]
pub struct Lease(Option<Leased>);

struct Leased {
    queue: QueueName,
    delivered: Vec<DeliveryId>,
    db: Db,
    tasks: TaskTracker,
    given_back: Arc<GivenBack>,
}

impl Delivery {
    /// Nothing to deliver.
    pub fn empty() -> Self {
        Self { messages: Vec::new(), lease: Lease::default() }
    }

    /// Keeps the first messages that have at most so many bytes, and at least one; the others are
    /// given back.
    pub fn keep_within(&mut self, bytes: u64) {
        self.keep(fitting(&self.messages, bytes));
    }

    /// Keeps so many of the first messages; the others are given back.
    pub fn keep(&mut self, kept: usize) {
        if kept < self.messages.len() {
            self.messages.truncate(kept);
            self.lease.give_back_behind(kept);
        }
    }

    pub(super) fn new(queue: &QueueName, messages: Vec<Message>, shared: &Shared) -> Self {
        let delivered = messages.iter().map(Message::delivery).collect();
        let leased = Leased {
            queue: queue.clone(),
            delivered,
            db: shared.db.clone(),
            tasks: shared.tasks.clone(),
            given_back: Arc::clone(&shared.given_back),
        };
        Self { lease: Lease((!messages.is_empty()).then_some(leased)), messages }
    }
}

impl Lease {
    fn give_back_behind(&mut self, kept: usize) {
        let Some(leased) = &mut self.0 else { return };
        let delivered = leased.delivered.split_off(kept.min(leased.delivered.len()));
        drop(Self(Some(Leased {
            queue: leased.queue.clone(),
            delivered,
            db: leased.db.clone(),
            tasks: leased.tasks.clone(),
            given_back: Arc::clone(&leased.given_back),
        })));
    }

    /// Whether there is something to give back.
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }

    /// The client has the messages.
    pub fn taken(&mut self) {
        self.0 = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(leased) = self.0.take() else { return };
        // Without a runtime the process is ending; the visibility timeout will do.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = leased.tasks.clone();
            tasks.spawn_on(give_back(leased), &runtime);
        }
    }
}

async fn give_back(mut leased: Leased) {
    let mut backoff = LockBackoff::new();
    let outcome = loop {
        let before = leased.delivered.len();
        let outcome = leased.release().await;
        if leased.delivered.len() < before {
            // Whoever looked meanwhile did not see them.
            leased.given_back.note(&leased.queue);
        }
        let may_pass = matches!(
            outcome,
            Err(store::Error::Locked
                | store::Error::Deadlock(_)
                | store::Error::Overloaded
                | store::Error::Unavailable(_))
        );
        let pause = backoff.next_pause().filter(|_| may_pass);
        let Some(pause) = pause else { break outcome };
        sleep(pause).await;
    };
    match outcome {
        // Dropped meanwhile, messages and all.
        Ok(()) | Err(store::Error::QueueNotFound) => {}
        Err(error) => {
            let (queue, messages) = (&leased.queue, leased.delivered.len());
            warn!(%queue, messages, %error, "not given back: hidden until their timeout is over");
        }
    }
}

impl Leased {
    /// One try at giving them back; what is given back is left out of the next one, as somebody may be given
    /// it meanwhile.
    async fn release(&mut self) -> store::Result<()> {
        let mut conn = self.db.acquire(&Arc::new(Call::default())).await?;
        store::release(&mut conn, &self.queue, &mut self.delivered).await
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.0.as_ref().map_or(0, |leased| leased.delivered.len());
        f.debug_tuple("Lease").field(&open).finish()
    }
}
