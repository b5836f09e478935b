//! Transactions that are done separately: how long they take, and the permit that they get by that.

use std::{future::Future, iter, pin::pin, time::Duration};

use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::{domain::CallerId, store::Operation};

use super::{
    Inner, LIMIT, SEPARATE_TIME, Transactions,
    size::{is_topic, kind, subjects},
    slots::{Applicant, SeparateSlot},
};

/// Time after which a transaction is slow.
const SLOW: Duration = Duration::from_millis(250);
/// The kind of all publications with routing keys that are not known to be fast: which queues these lead to is known
/// to the database alone.
const NEW_TOPICS: &str = "new topics";
/// Time for which a routing key is known to be fast.
const FAST_TIME: Duration = Duration::from_secs(60);

impl<T: Send + DeserializeOwned + 'static> Transactions<T> {
    /// A permit for a separate transaction.
    pub async fn admit_separate(
        &self,
        operations: &[Operation],
        caller: Option<CallerId>,
    ) -> SeparateSlot {
        self.0.slots.acquire(self.applicant(operations, caller)).await
    }

    /// Whether a transaction would wait for that.
    pub(super) fn would_wait(&self, operations: &[Operation], caller: Option<CallerId>) -> bool {
        self.0.slots.would_wait(self.applicant(operations, caller))
    }

    fn applicant(&self, operations: &[Operation], caller: Option<CallerId>) -> Applicant {
        let kind = kind(operations);
        let is_slow = self.0.slow.contains_any(iter::once(kind.clone()));
        let may_be_slow = is_topic(&kind) && !self.0.fast.contains_any(iter::once(kind.clone()));
        let kind = if may_be_slow { NEW_TOPICS.to_owned() } else { kind };
        Applicant { caller, kind, is_slow }
    }

    /// Waits for a separate transaction. That it is very slow is known before it has ended.
    pub async fn watch<R>(&self, operations: &[Operation], work: impl Future<Output = R>) -> R {
        let (mut work, began) = (pin!(work), Instant::now());
        if let Ok(outcome) = timeout(LIMIT, &mut work).await {
            self.note_speed(operations, began.elapsed());
            return outcome;
        }
        self.note_speed(operations, began.elapsed());
        let outcome = work.await;
        self.note_speed(operations, began.elapsed());
        outcome
    }

    fn note_speed(&self, operations: &[Operation], took: Duration) {
        let Inner { separate, slow, fast, .. } = &*self.0;
        let kind = kind(operations);
        if took >= SLOW {
            separate.insert(subjects(operations), SEPARATE_TIME);
            fast.remove(iter::once(kind.clone()));
            slow.insert(iter::once(kind), SEPARATE_TIME);
        } else {
            separate.remove(subjects(operations));
            slow.remove(iter::once(kind.clone()));
            fast.insert(iter::once(kind).filter(|kind| is_topic(kind)), FAST_TIME);
        }
    }

    /// Notes that a transaction went to so many queues that it is better done separately.
    pub fn note_wide(&self, operations: &[Operation]) {
        self.0.separate.insert(subjects(operations), SEPARATE_TIME);
    }
}
