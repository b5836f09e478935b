//! Other gateways on the same database: they tell each other which queues have news.
//!
//! A gateway in which somebody waits says for which queues; the others then say, at most once every
//! few milliseconds and outside every send, when they have committed something there. Where nobody
//! waits elsewhere, nothing is said. What is lost on the way costs time, never a message: the sweep
//! stands behind it.

mod wakeups;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use crate::{
    domain::{PeerKey, QueueName, QueueTag},
    store::Db,
};

/// Time after which a gateway repeats for which queues it has clients.
const REPEAT: Duration = Duration::from_secs(10);

/// What this gateway knows of the others, and has to say to them.
#[derive(Debug)]
pub(super) struct Peers {
    id: String,
    db: Db,
    /// Every role that may connect can listen, and speak.
    key: PeerKey,
    state: Mutex<State>,
    something_to_say: Notify,
    something_to_hear: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Queues for which others have clients, and until when that is believed.
    wanted_elsewhere: HashMap<QueueTag, Instant>,
    /// Queues for which it was said that clients are here, and when.
    said: HashMap<QueueTag, (QueueName, Instant)>,
    news: HashSet<QueueTag>,
    wants: HashSet<QueueTag>,
    hello: bool,
    /// When one that is new was last told.
    told: Option<Instant>,
    /// Queues whose tables notify of inserts, and whether that is listened to.
    notifying: HashMap<String, bool>,
}

impl Peers {
    pub(super) fn new(db: Db, key: PeerKey) -> Arc<Self> {
        Arc::new(Self {
            id: Uuid::now_v7().to_string(),
            db,
            key,
            state: Mutex::default(),
            something_to_say: Notify::new(),
            something_to_hear: Notify::new(),
        })
    }

    /// Something was committed in a queue.
    pub(super) fn notify(&self, queue: &QueueName) {
        if self.lock().wanted_elsewhere.is_empty() {
            return;
        }
        let tag = self.key.tag(queue);
        let mut state = self.lock();
        let until = state.wanted_elsewhere.get(&tag);
        if until.is_some_and(|until| *until > Instant::now()) && state.news.insert(tag) {
            self.something_to_say.notify_one();
        }
    }

    /// Somebody waits for a queue's messages here.
    pub(super) fn register_interest(&self, queue: &QueueName) {
        let tag = self.key.tag(queue);
        let mut state = self.lock();
        let now = Instant::now();
        let said = state.said.get(&tag);
        if said.is_none_or(|(_, said)| *said + REPEAT < now) {
            state.said.insert(tag, (queue.clone(), now));
            state.wants.insert(tag);
            self.something_to_say.notify_one();
        }
    }

    /// The table of a queue notifies of inserts.
    pub(super) fn listen_to(&self, queue: &str) {
        let mut state = self.lock();
        if !state.notifying.contains_key(queue) {
            state.notifying.insert(queue.to_owned(), false);
            self.something_to_hear.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
