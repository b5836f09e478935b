//! Transactions that are done apart: how long they take, and the leave that they get by that.

use std::{future::Future, iter, pin::pin, time::Duration};

use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::{domain::CallerId, store::Operation};

use super::{
    APART_TIME, Inner, LIMIT, Transactions,
    size::{is_topic, kind, subjects},
    slots::{ApartSlot, Applicant},
};

/// Time after which a transaction is slow.
const SLOW: Duration = Duration::from_millis(250);
/// The kind of all publications with routing keys that are not known to be fast: which queues these lead to is known
/// to the database alone.
const NEW_TOPICS: &str = "new topics";
/// Time for which a routing key is known to be fast.
const FAST_TIME: Duration = Duration::from_secs(60);

impl<T: Send + DeserializeOwned + 'static> Transactions<T> {
    /// Leave for a transaction that is done apart.
    pub async fn admit_apart(
        &self,
        operations: &[Operation],
        caller: Option<CallerId>,
    ) -> ApartSlot {
        self.0.slots.acquire(self.applicant(operations, caller)).await
    }

    /// Whether a transaction would wait for that.
    pub(super) fn would_wait(&self, operations: &[Operation], caller: Option<CallerId>) -> bool {
        self.0.slots.would_wait(self.applicant(operations, caller))
    }

    fn applicant(&self, operations: &[Operation], caller: Option<CallerId>) -> Applicant {
        let kind = kind(operations);
        let is_slow = self.0.slow.has_any(iter::once(kind.clone()));
        let may_be_slow = is_topic(&kind) && !self.0.fast.has_any(iter::once(kind.clone()));
        let kind = if may_be_slow { NEW_TOPICS.to_owned() } else { kind };
        Applicant { caller, kind, is_slow }
    }

    /// Waits for a transaction that is done apart. That it is very slow is known before it has ended.
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
        let Inner { apart, slow, fast, .. } = &*self.0;
        let kind = kind(operations);
        if took >= SLOW {
            apart.note(subjects(operations), APART_TIME);
            fast.forget(iter::once(kind.clone()));
            slow.note(iter::once(kind), APART_TIME);
        } else {
            apart.forget(subjects(operations));
            slow.forget(iter::once(kind.clone()));
            fast.note(iter::once(kind).filter(|kind| is_topic(kind)), FAST_TIME);
        }
    }

    /// Notes that a transaction went to so many queues that it is better done apart.
    pub fn note_wide(&self, operations: &[Operation]) {
        self.0.apart.note(subjects(operations), APART_TIME);
    }
}
