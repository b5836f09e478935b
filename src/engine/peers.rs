//! Other gateways on the same database: they tell each other which queues have news.
//!
//! A gateway in which somebody waits says for which queues; the others then say, at most once every
//! few milliseconds and outside every send, when they have committed something there. Where nobody
//! waits elsewhere, nothing is said. What is lost on the way costs time, never a message: the sweep
//! stands behind it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Instant, interval, sleep},
};
use uuid::Uuid;

use crate::{
    domain::QueueName,
    store::{self, ConnectOptions, Db, Ears, Heard},
};

use super::lanes::Lanes;

/// What gathers in this time is said at once.
const GATHERING: Duration = Duration::from_millis(2);
/// Time after which a gateway repeats for which queues it has clients.
const REPEAT: Duration = Duration::from_secs(10);
/// Time after which a gateway that has not repeated it is thought to have none.
const BELIEVE: Duration = Duration::from_secs(25);
/// Pause before another attempt to listen.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Queues named in one notification: PostgreSQL takes less than 8000 bytes.
const NAMES: usize = 30;

/// What this gateway knows of the others, and has to say to them.
#[derive(Debug)]
pub(super) struct Peers {
    id: String,
    db: Db,
    state: Mutex<State>,
    something_to_say: Notify,
    something_to_hear: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Queues for which others have clients, and until when that is believed.
    wanted_elsewhere: HashMap<QueueName, Instant>,
    /// Queues for which it was said that clients are here, and when.
    said: HashMap<QueueName, Instant>,
    news: HashSet<QueueName>,
    wants: HashSet<QueueName>,
    hello: bool,
    /// Queues whose tables notify of inserts, and whether that is listened to.
    notifying: HashMap<String, bool>,
}

/// What gateways say to each other.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Said {
    from: String,
    /// Queues in which something was committed.
    #[serde(default)]
    news: Vec<String>,
    /// Queues for which the sender has clients that wait.
    #[serde(default)]
    wants: Vec<String>,
    /// The sender is new, and wants to know for which queues others have clients.
    #[serde(default)]
    hello: bool,
}

impl Peers {
    pub(super) fn new(db: Db) -> Arc<Self> {
        Arc::new(Self {
            id: Uuid::now_v7().to_string(),
            db,
            state: Mutex::default(),
            something_to_say: Notify::new(),
            something_to_hear: Notify::new(),
        })
    }

    /// Something was committed in a queue.
    pub(super) fn tell(&self, queue: &QueueName) {
        let mut state = self.lock();
        let until = state.wanted_elsewhere.get(queue);
        if until.is_some_and(|until| *until > Instant::now()) && state.news.insert(queue.clone()) {
            self.something_to_say.notify_one();
        }
    }

    /// Somebody waits for a queue's messages here.
    pub(super) fn want(&self, queue: &QueueName) {
        let mut state = self.lock();
        let now = Instant::now();
        let said = state.said.get(queue);
        if said.is_none_or(|said| *said + REPEAT < now) {
            state.said.insert(queue.clone(), now);
            state.wants.insert(queue.clone());
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

    /// Says what there is to say, until it is dropped.
    pub(super) async fn speak(&self) {
        loop {
            self.something_to_say.notified().await;
            sleep(GATHERING).await;
            let said = self.gathered();
            if let Err(error) = self.say(&said).await {
                tracing::debug!(%error, "other gateways could not be told");
            }
        }
    }

    /// Listens, and connects again when that breaks, until it is dropped.
    pub(super) async fn listen(&self, options: &ConnectOptions, lanes: &Lanes) {
        loop {
            let outcome = self.listen_once(options, lanes).await;
            if let Err(error) = outcome {
                tracing::debug!(%error, "not listening to other gateways");
            }
            sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn listen_once(&self, options: &ConnectOptions, lanes: &Lanes) -> store::Result<()> {
        let mut ears = Ears::open(options).await?;
        self.lock().notifying.values_mut().for_each(|listened_to| *listened_to = false);
        self.begin_anew(lanes);
        let mut repeat = interval(REPEAT);
        loop {
            tokio::select! {
                heard = ears.hear() => match heard? {
                    Heard::Gateway(payload) => self.heard(&payload, lanes),
                    Heard::Insert(table) => wake_table(&table, lanes),
                    Heard::Reconnected => self.begin_anew(lanes),
                },
                _ = repeat.tick() => self.want_all(lanes),
                () = self.something_to_hear.notified() => {}
            }
            for queue in self.not_listened_to() {
                ears.listen_to(&table_of(&queue)).await?;
                // What came while it was not listened to.
                lanes.news_for_all();
            }
        }
    }

    /// Nothing is known of what was said before.
    fn begin_anew(&self, lanes: &Lanes) {
        let mut state = self.lock();
        state.hello = true;
        state.said.clear();
        drop(state);
        self.something_to_say.notify_one();
        self.want_all(lanes);
        lanes.news_for_all();
    }

    fn want_all(&self, lanes: &Lanes) {
        lanes.waited_on().iter().for_each(|(queue, _)| self.want(queue));
        let now = Instant::now();
        let mut state = self.lock();
        state.wanted_elsewhere.retain(|_, until| *until > now);
        state.said.retain(|_, said| *said + BELIEVE > now);
    }

    fn heard(&self, payload: &str, lanes: &Lanes) {
        let Ok(said) = serde_json::from_str::<Said>(payload) else { return };
        if said.from == self.id {
            return;
        }
        let names = |names: &[String]| -> Vec<QueueName> {
            names.iter().filter_map(|name| QueueName::parse(name).ok()).collect()
        };
        for lanes in names(&said.news).iter().filter_map(|queue| lanes.in_use(queue)) {
            lanes.receive.news();
        }
        let until = Instant::now() + BELIEVE;
        let wanted = names(&said.wants).into_iter().map(|queue| (queue, until));
        self.lock().wanted_elsewhere.extend(wanted);
        if said.hello {
            self.lock().said.clear();
            self.want_all(lanes);
        }
    }

    /// What there is to say, in notifications that are short enough.
    fn gathered(&self) -> Vec<Said> {
        let (news, wants, hello) = {
            let mut state = self.lock();
            let state = &mut *state;
            let hello = std::mem::take(&mut state.hello);
            (std::mem::take(&mut state.news), std::mem::take(&mut state.wants), hello)
        };
        let names = |queues: HashSet<QueueName>| -> Vec<String> {
            queues.iter().map(QueueName::to_string).collect()
        };
        let from = || Said { from: self.id.clone(), ..Said::default() };
        let mut said = Vec::new();
        if hello {
            said.push(Said { hello, ..from() });
        }
        let (news, wants) = (names(news), names(wants));
        said.extend(news.chunks(NAMES).map(|part| Said { news: part.to_vec(), ..from() }));
        said.extend(wants.chunks(NAMES).map(|part| Said { wants: part.to_vec(), ..from() }));
        said
    }

    async fn say(&self, said: &[Said]) -> store::Result<()> {
        if said.is_empty() {
            return Ok(());
        }
        let mut conn = self.db.errand().await?;
        for said in said {
            // Strings and lists of strings: this cannot fail.
            let payload = serde_json::to_string(said).unwrap_or_default();
            store::say(&mut conn, &payload).await?;
        }
        Ok(())
    }

    fn not_listened_to(&self) -> Vec<String> {
        let mut state = self.lock();
        let waiting = state.notifying.iter_mut().filter(|(_, listened_to)| !**listened_to);
        waiting
            .map(|(queue, listened_to)| {
                *listened_to = true;
                queue.clone()
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn table_of(queue: &str) -> String {
    format!("q_{}", queue.to_lowercase())
}

fn wake_table(table: &str, lanes: &Lanes) {
    for (queue, line) in lanes.waited_on() {
        if table_of(queue.as_str()) == table {
            line.news();
        }
    }
}
