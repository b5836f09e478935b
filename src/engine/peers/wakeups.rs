//! What is said between gateways, and heard: it wakes those who wait here for what was committed there.

use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::{
    domain::{QueueName, QueueTag},
    engine::lanes::Lanes,
    store::{self, Backoff, Complaint, ConnectOptions, Notification, NotificationListener},
};

use super::{Peers, REPEAT};

/// What gathers in this time is said at once.
const GATHERING: Duration = Duration::from_millis(2);
/// Time after which a gateway that has not repeated it is thought to have none.
const PEER_TTL: Duration = Duration::from_secs(25);
/// Time between two proofs that this gateway hears what is said, itself included.
const PROOF_INTERVAL: Duration = Duration::from_secs(2);
/// Pauses between attempts to listen.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Pause where the database has no connection even for those who work.
const STARVED_PAUSE: Duration = Duration::from_secs(30);
/// A connection that lasted for so long was a good one.
const STEADY: Duration = Duration::from_secs(30);
/// Queues that one notification is about: PostgreSQL takes less than 8000 bytes.
const TAGS: usize = 100;
/// Time in which one gateway that asks is told: others could have that repeated.
const HELLO_PAUSE: Duration = Duration::from_millis(500);

/// What gateways say to each other.
#[derive(Debug, Default, Serialize, Deserialize)]
struct PeerMessage {
    from: String,
    /// Queues in which something was committed.
    #[serde(default)]
    news: Vec<QueueTag>,
    /// Queues for which the sender has clients that wait.
    #[serde(default)]
    wants: Vec<QueueTag>,
    /// The sender is new, and wants to know for which queues others have clients.
    #[serde(default)]
    hello: bool,
    /// The sender wants to hear this itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<u64>,
}

/// What a listening connection has to hear to prove that it does.
#[derive(Debug, Default)]
struct Proof {
    number: u64,
    awaited: bool,
}

impl Peers {
    /// Says what there is to say, until it is dropped.
    pub(in crate::engine) async fn speak(&self) {
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
    pub(in crate::engine) async fn listen(&self, options: &ConnectOptions, lanes: &Lanes) {
        let (mut backoff, mut complaint) = (BACKOFF, Complaint::default());
        loop {
            let began = Instant::now();
            let pause = tokio::select! {
                outcome = self.listen_once(options, lanes, &mut complaint) => {
                    if began.elapsed() > STEADY {
                        backoff.reset();
                    }
                    if let Err(error) = outcome
                        && complaint.is_due()
                    {
                        tracing::warn!(
                            %error,
                            "not listening to other gateways, trying again: meanwhile messages are \
                             found by looking"
                        );
                    }
                    backoff.pause()
                }
                // Without a connection for work there is nothing to listen for.
                () = self.db.starved() => STARVED_PAUSE,
            };
            sleep(pause).await;
        }
    }

    /// Listens until the connection fails, or does not prove that it hears.
    async fn listen_once(
        &self,
        options: &ConnectOptions,
        lanes: &Lanes,
        complaint: &mut Complaint,
    ) -> store::Result<()> {
        let mut listener = NotificationListener::open(options).await?;
        self.lock().notifying.values_mut().for_each(|listened_to| *listened_to = false);
        self.begin_anew(lanes);
        let (mut repeat, mut prove) = (interval(REPEAT), interval(PROOF_INTERVAL));
        prove.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut proof = Proof::default();
        loop {
            tokio::select! {
                next = listener.next() => match next? {
                    Notification::Gateway(payload) => {
                        if self.heard(&payload, lanes) == Some(proof.number) {
                            proof.awaited = false;
                            if complaint.is_over() {
                                tracing::info!("listening to other gateways again");
                            }
                        }
                    }
                    Notification::Insert(table) => wake_table(&table, lanes),
                },
                _ = repeat.tick() => self.register_all_interest(lanes),
                _ = prove.tick() => self.prove(&mut listener, &mut proof, lanes).await?,
                () = self.something_to_hear.notified() => {}
            }
            for queue in self.not_listened_to() {
                listener.listen_to(&table_of(&queue)).await?;
                // What came while it was not listened to.
                lanes.notify_all();
            }
        }
    }

    /// Fails if what was said to this gateway itself was not heard, and says something again. A
    /// connection whose other end is gone hears nothing, and nothing tells; behind a pooler in
    /// transaction mode it is the same.
    async fn prove(
        &self,
        listener: &mut NotificationListener,
        proof: &mut Proof,
        lanes: &Lanes,
    ) -> store::Result<()> {
        if proof.awaited {
            return Err(store::Error::Timeout);
        }
        if proof.number > 0 && lanes.waited_on().is_empty() {
            return Ok(());
        }
        *proof = Proof { number: proof.number + 1, awaited: true };
        let own = PeerMessage {
            from: self.id.clone(),
            proof: Some(proof.number),
            ..PeerMessage::default()
        };
        listener.notify(&self.payload(&own)).await
    }

    /// Nothing is known of what was said before.
    fn begin_anew(&self, lanes: &Lanes) {
        let mut state = self.lock();
        state.hello = true;
        state.said.clear();
        drop(state);
        self.something_to_say.notify_one();
        self.register_all_interest(lanes);
        lanes.notify_all();
    }

    fn register_all_interest(&self, lanes: &Lanes) {
        lanes.waited_on().iter().for_each(|(queue, _)| self.register_interest(queue));
        let now = Instant::now();
        let mut state = self.lock();
        state.wanted_elsewhere.retain(|_, until| *until > now);
        state.said.retain(|_, (_, said)| *said + PEER_TTL > now);
    }

    /// Takes in what a gateway said. What this one said itself is a proof.
    fn heard(&self, payload: &str, lanes: &Lanes) -> Option<u64> {
        let message = serde_json::from_str::<PeerMessage>(self.key.open(payload)?).ok()?;
        if message.from == self.id {
            return message.proof;
        }
        let now = Instant::now();
        let mut state = self.lock();
        let of_ours = |tag: &QueueTag| state.said.get(tag).map(|(queue, _)| queue.clone());
        let news: Vec<QueueName> = message.news.iter().filter_map(of_ours).collect();
        state.wanted_elsewhere.extend(message.wants.into_iter().map(|tag| (tag, now + PEER_TTL)));
        let asks = message.hello && state.told.is_none_or(|told| told + HELLO_PAUSE < now);
        if asks {
            state.told = Some(now);
            state.said.clear();
        }
        drop(state);
        for lanes in news.iter().filter_map(|queue| lanes.in_use(queue)) {
            lanes.receive.notify();
        }
        if asks {
            self.register_all_interest(lanes);
        }
        None
    }

    /// What there is to say, in notifications that are short enough.
    fn gathered(&self) -> Vec<PeerMessage> {
        let (news, wants, hello) = {
            let mut state = self.lock();
            let state = &mut *state;
            let hello = std::mem::take(&mut state.hello);
            (std::mem::take(&mut state.news), std::mem::take(&mut state.wants), hello)
        };
        let tags = |tags: HashSet<QueueTag>| -> Vec<QueueTag> { tags.into_iter().collect() };
        let from = || PeerMessage { from: self.id.clone(), ..PeerMessage::default() };
        let mut said = Vec::new();
        if hello {
            said.push(PeerMessage { hello, ..from() });
        }
        let (news, wants) = (tags(news), tags(wants));
        said.extend(news.chunks(TAGS).map(|part| PeerMessage { news: part.to_vec(), ..from() }));
        said.extend(wants.chunks(TAGS).map(|part| PeerMessage { wants: part.to_vec(), ..from() }));
        said
    }

    async fn say(&self, said: &[PeerMessage]) -> store::Result<()> {
        if said.is_empty() {
            return Ok(());
        }
        let mut conn = self.db.background_conn().await?;
        for said in said {
            store::notify(&mut conn, &self.payload(said)).await?;
        }
        Ok(())
    }

    fn payload(&self, message: &PeerMessage) -> String {
        // Strings, lists of strings and a number: this cannot fail.
        self.key.seal(&serde_json::to_string(message).unwrap_or_default())
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
}

fn table_of(queue: &str) -> String {
    format!("q_{}", queue.to_lowercase())
}

fn wake_table(table: &str, lanes: &Lanes) {
    for (queue, receivers) in lanes.waited_on() {
        if table_of(queue.as_str()) == table {
            receivers.notify();
        }
    }
}
