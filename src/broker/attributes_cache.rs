//! The attributes of queues that were looked at a moment ago.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{domain::QueueName, store::QueueAttributes};

/// Age at which attributes are looked at again, as with settings.
const MAX_AGE: Duration = Duration::from_millis(800);
/// Queues whose attributes are kept at the same time.
const MAX_KEPT: usize = 10_000;

/// The attributes that were looked at a moment ago.
#[derive(Debug, Default)]
pub(super) struct AttributesCache(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    queues: HashMap<QueueName, (Instant, Arc<QueueAttributes>)>,
    /// When those that are too old were dropped last.
    swept: Option<Instant>,
}

impl AttributesCache {
    /// Those of a queue, unless they are too old.
    pub(super) fn get(&self, queue: &QueueName) -> Option<Arc<QueueAttributes>> {
        let kept = self.lock();
        let (since, attributes) = kept.queues.get(queue)?;
        (since.elapsed() < MAX_AGE).then(|| Arc::clone(attributes))
    }

    /// Keeps what was asked for at `since`.
    pub(super) fn put(&self, queue: &QueueName, since: Instant, attributes: &Arc<QueueAttributes>) {
        let mut kept = self.lock();
        // Nobody may ask for those any more.
        if kept.swept.is_none_or(|swept| swept.elapsed() >= MAX_AGE) {
            kept.queues.retain(|_, (since, _)| since.elapsed() < MAX_AGE);
            kept.swept = Some(Instant::now());
        }
        if kept.queues.len() < MAX_KEPT {
            kept.queues.insert(queue.clone(), (since, Arc::clone(attributes)));
        }
    }

    pub(super) fn forget(&self, queue: &QueueName) {
        self.lock().queues.remove(queue);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_is_not_kept() {
        let cache = AttributesCache::default();
        let put = |queue: &str| {
            let queue = QueueName::parse(queue).expect("a name");
            cache.put(&queue, Instant::now(), &Arc::default());
            assert!(cache.get(&queue).is_some());
        };
        let kept = || cache.lock().queues.len();
        put("a");
        put("b");
        assert_eq!(kept(), 2);
        tokio::time::advance(MAX_AGE).await;
        put("c");
        assert_eq!(kept(), 1);
    }
}
