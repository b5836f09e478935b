//! The settings of queues, as far as they are not the defaults.
//!
//! Kept for less than a second, so that a change at one gateway is soon in force at all of them,
//! and whatever an SQL client does to a queue is noticed: nobody has to tell. While somebody has them
//! locked, or they take too long to load, those that are known stay in force for some minutes: who holds
//! that lock is the only one who could change them, and no queue is to stop because of it. What this gateway
//! has changed of a queue is waited for all the same, by the requests of that queue.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::{
    domain::{QueueName, QueueSettings},
    engine::Pauses,
    store::{self, Configured, DatabaseClock, Db},
};

use super::{Error, Result};

/// Age at which settings are not used any more.
const MAX_AGE: Duration = Duration::from_millis(800);
/// Age at which they are loaded again while they are still used.
const REFRESH_AGE: Duration = Duration::from_millis(400);
/// Age at which they are not used even if they cannot be loaded.
const STALE_AGE: Duration = Duration::from_secs(5 * 60);
/// Time that those wait for them to be loaded who could use what is known.
const LOAD_PATIENCE: Duration = Duration::from_millis(500);
/// Time between two attempts to load them while they are used in spite of their age.
const STALE_PAUSE: Duration = Duration::from_millis(500);

/// What holds for a queue. A call on it looks that up once.
#[derive(Debug, Default)]
pub(super) struct Policy {
    pub(super) settings: QueueSettings,
    /// Whether it is read in groups.
    pub(super) fifo: bool,
    /// Whether the queue that is set for its dead letters is not there.
    pub(super) dead_letters_missing: bool,
    /// Whether its name would reach the table of a queue that has upper case in its own.
    pub(super) is_folded: bool,
    view: View,
}

/// What can be seen of a queue's settings.
#[derive(Debug, Default, PartialEq, Eq)]
enum View {
    #[default]
    Shown,
    /// It has some, and policies of the database hide whether they are its own.
    Hidden,
}

/// What holds for all queues.
pub(super) struct Policies {
    db: Db,
    default: Arc<Policy>,
    known: StdMutex<Known>,
    /// Held by whoever loads: the others wait for that.
    loading: Mutex<()>,
    clock: DatabaseClock,
    /// Is told which queues are paused.
    pauses: Arc<Pauses>,
}

#[derive(Default)]
struct Known {
    queues: HashMap<String, Arc<Policy>>,
    /// When these were asked for.
    loaded: Option<Instant>,
    /// The queues that this gateway has changed since, and when it did so last.
    changed: HashMap<QueueName, Instant>,
    /// Whether these are used in spite of their age.
    stale: bool,
    /// How the last attempt failed that nothing came after, and when it began.
    failed: Option<(Instant, store::Error)>,
    refreshing: bool,
}

impl Known {
    /// How old that is which is known of a queue, or of none in particular; nothing if it is known not to be so
    /// any more.
    fn age_for(&self, queue: Option<&QueueName>) -> Option<Duration> {
        let is_changed = queue.is_some_and(|queue| self.changed.contains_key(queue));
        self.loaded.filter(|_| !is_changed).map(|loaded| loaded.elapsed())
    }

    /// Whether it may be used though it is old.
    fn is_usable_for(&self, queue: Option<&QueueName>) -> bool {
        self.age_for(queue).is_some_and(|age| age < STALE_AGE)
    }

    /// The same, as the last attempt to load it met a lock or took too long.
    fn is_good_enough_for(&self, queue: Option<&QueueName>) -> bool {
        self.stale && self.is_usable_for(queue)
    }
}

impl Policies {
    pub(super) fn new(db: Db, pauses: Arc<Pauses>) -> Arc<Self> {
        let (default, known, loading) = (Arc::default(), StdMutex::default(), Mutex::new(()));
        Arc::new(Self { db, default, known, loading, clock: DatabaseClock::default(), pauses })
    }

    /// What holds for a queue; an error where that is hidden.
    pub(super) async fn of(self: &Arc<Self>, queue: &QueueName) -> Result<Arc<Policy>> {
        self.ensure_known(Some(queue)).await?;
        let policy = self.last_known(queue);
        match policy.view {
            View::Shown => Ok(policy),
            View::Hidden => Err(Error::QueueHidden(queue.as_str().into())),
        }
    }

    /// What held for a queue when that was last loaded.
    pub(super) fn last_known(&self, queue: &QueueName) -> Arc<Policy> {
        Arc::clone(self.lock().queues.get(queue.as_str()).unwrap_or(&self.default))
    }

    /// Whether dead letters of some queue went there when that was last loaded.
    pub(super) fn takes_dead_letters(&self, queue: &QueueName) -> bool {
        let goes_there = |policy: &Arc<Policy>| {
            policy.settings.dead_letter_queue.as_ref().is_some_and(|dead| dead.0 == *queue)
        };
        self.lock().queues.values().any(goes_there)
    }

    /// What time it is in the database, once something was loaded from there.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Whether any queue is known to have something that has to be enforced from time to time.
    pub(super) fn any_retention(&self) -> bool {
        let retains = |policy: &Arc<Policy>| {
            let settings = &policy.settings;
            settings.message_retention.is_some() || settings.archive_retention.is_some()
        };
        self.lock().queues.values().any(retains)
    }

    /// That a queue is paused now, or is not any more, as this gateway has just set it.
    pub(super) fn note_pause(&self, queue: &QueueName, paused: bool) {
        self.pauses.set(queue, paused);
    }

    /// What is known of a queue is not true any more.
    pub(super) fn forget(&self, queue: &QueueName) {
        self.lock().changed.insert(queue.clone(), Instant::now());
    }

    /// Sees to it that the database's time is known.
    pub(super) async fn ensure_fresh(self: &Arc<Self>) -> Result<()> {
        self.ensure_known(None).await
    }

    /// Loads what this gateway has changed since it was loaded, if there is any and it does not take long.
    pub(super) async fn ensure_own_changes(self: &Arc<Self>) {
        let changed = self.lock().changed.keys().next().cloned();
        if let Some(queue) = changed {
            drop(timeout(LOAD_PATIENCE, self.ensure_known(Some(&queue))).await);
        }
    }

    /// Loads what is not known, or not fresh any more.
    async fn ensure_known(self: &Arc<Self>, queue: Option<&QueueName>) -> Result<()> {
        let age = self.lock().age_for(queue);
        match age {
            Some(age) if age < REFRESH_AGE => return Ok(()),
            Some(age) if age < MAX_AGE => {
                self.refresh_beside();
                return Ok(());
            }
            _ if self.lock().is_good_enough_for(queue) => {
                self.refresh_beside();
                return Ok(());
            }
            _ => {}
        }
        // Not cancelled by a client that leaves: others wait for it too.
        let policies = Arc::clone(self);
        let mut loading = tokio::spawn(async move { policies.refresh(Instant::now()).await });
        let loaded = match timeout(LOAD_PATIENCE, &mut loading).await {
            Ok(loaded) => loaded,
            Err(_) if self.lock().is_usable_for(queue) => return Ok(()),
            Err(_) => loading.await,
        };
        match loaded.unwrap_or(Err(store::Error::Unavailable(None))) {
            Err(_) if self.lock().is_good_enough_for(queue) => Ok(()),
            Err(store::Error::Locked) => Err(Error::Locked("the settings of queues".to_owned())),
            loaded => Ok(loaded?),
        }
    }

    /// Loads while others go on with what is known.
    fn refresh_beside(self: &Arc<Self>) {
        let mut known = self.lock();
        let failed_just_now =
            known.failed.as_ref().is_some_and(|(began, _)| began.elapsed() < STALE_PAUSE);
        if !known.refreshing && !failed_just_now {
            known.refreshing = true;
            let policies = Arc::clone(self);
            tokio::spawn(async move {
                let _ = policies.refresh(Instant::now()).await;
                policies.lock().refreshing = false;
            });
        }
    }

    /// Loads, unless somebody else has done so since `asked`.
    async fn refresh(&self, asked: Instant) -> store::Result<()> {
        let _turn = self.loading.lock().await;
        {
            let known = self.lock();
            if known.loaded.is_some_and(|loaded| loaded >= asked) {
                return Ok(());
            }
            // Whoever waited for an attempt that failed has waited enough.
            if let Some((began, error)) = &known.failed
                && *began >= asked
            {
                return Err(error.clone());
            }
        }
        let began = Instant::now();
        let loaded = self.load().await;
        let mut known = self.lock();
        match loaded {
            Ok(configured) => {
                known.queues = sorted(configured);
                known.loaded = Some(began);
                known.failed = None;
                known.changed.retain(|_, changed| *changed >= began);
                if known.changed.is_empty() {
                    // While what is known is known to be so: a change made here is told at once.
                    self.pauses.replace(paused(&known.queues));
                }
                if std::mem::take(&mut known.stale) {
                    info!("the settings of queues are looked at again");
                }
                Ok(())
            }
            Err(error) => {
                let lasts = matches!(error, store::Error::Locked | store::Error::Timeout);
                if lasts && !known.stale {
                    warn!(
                        %error,
                        "the settings of queues cannot be looked at: for {} minutes at most, those that \
                         are known stay in force",
                        STALE_AGE.as_secs() / 60
                    );
                }
                known.stale = lasts;
                known.failed = Some((began, error.clone()));
                Err(error)
            }
        }
    }

    async fn load(&self) -> store::Result<Vec<Configured>> {
        let mut conn = self.db.background_conn().await?;
        store::all_settings(&mut conn, &self.clock).await
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Whole between any two statements: a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The queues of which nothing is delivered.
fn paused(queues: &HashMap<String, Arc<Policy>>) -> HashSet<QueueName> {
    // Who waits at one that is hidden by now may wait at one that is paused.
    let paused =
        queues.iter().filter(|(_, policy)| policy.settings.paused || policy.view == View::Hidden);
    paused.filter_map(|(queue, _)| QueueName::parse(queue).ok()).collect()
}

/// What holds for queues, and for the names to which others are folded. Not folded here: databases have rules
/// of their own for letters.
fn sorted(configured: Vec<Configured>) -> HashMap<String, Arc<Policy>> {
    let mut folded = Vec::new();
    let policy = |queue: Configured| {
        folded.extend(queue.folded);
        let policy = Policy {
            settings: queue.settings,
            fifo: queue.fifo,
            dead_letters_missing: queue.dead_letters_missing,
            is_folded: false,
            view: if queue.is_hidden { View::Hidden } else { View::Shown },
        };
        (queue.queue, policy)
    };
    let mut policies: HashMap<String, Policy> = configured.into_iter().map(policy).collect();
    for name in folded {
        policies.entry(name).or_default().is_folded = true;
    }
    policies.into_iter().map(|(queue, policy)| (queue, Arc::new(policy))).collect()
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("age", &self.lock().age_for(None)).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Delay;

    fn configured(queue: &str, delay: i64, folded: Option<&str>) -> Configured {
        let settings =
            QueueSettings { delay: Delay::saturating(delay), ..QueueSettings::default() };
        let (queue, folded) = (queue.to_owned(), folded.map(ToOwned::to_owned));
        Configured {
            queue,
            settings,
            fifo: false,
            folded,
            dead_letters_missing: false,
            is_hidden: false,
        }
    }

    #[test]
    fn a_name_that_another_is_folded_to_is_told_whether_it_is_a_queue_or_none() {
        for reversed in [false, true] {
            let mut all = vec![
                configured("Orders", 1, Some("orders")),
                configured("orders", 2, None),
                configured("Bills", 3, Some("bills")),
            ];
            if reversed {
                all.reverse();
            }
            let policies = sorted(all);
            let of = |name: &str| {
                policies.get(name).map(|policy| (policy.settings.delay.get(), policy.is_folded))
            };
            assert_eq!(of("Orders"), Some((1, false)));
            assert_eq!(of("orders"), Some((2, true)));
            assert_eq!(of("Bills"), Some((3, false)));
            assert_eq!(of("bills"), Some((0, true)));
            assert_eq!(of("other"), None);
        }
    }
}
