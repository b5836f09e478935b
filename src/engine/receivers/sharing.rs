//! Looks that go into a statement with those of other queues.

use std::{iter, sync::Arc};

use tokio::time::Duration;
use tracing::{Instrument, Span};

use crate::{
    config::ReadMode,
    engine::{
        multi_queue::{Member, MultiQueue, is_undone},
        quarantine::take_away,
        separation::{RETRY_SEPARATE, SEPARATE},
        spans,
        table_lock::Intent,
        wait_queue::Look,
    },
    store::{self, Conn, Error, Found, QueueOutcome, QueueRead, Result},
};

use super::{ReadyLook, Receivers, key::Key};

/// A read that takes longer holds the others of its statement up.
const SLOW: Duration = Duration::from_millis(50);

/// Counts looks of one queue alone, until it is dropped.
struct OwnLooks(Option<Arc<MultiQueue<ReadyLook>>>);

impl OwnLooks {
    fn new(shared_reads: Option<&Arc<MultiQueue<ReadyLook>>>) -> Self {
        if let Some(reads) = shared_reads {
            reads.own_began();
        }
        Self(shared_reads.map(Arc::clone))
    }
}

impl Drop for OwnLooks {
    fn drop(&mut self) {
        if let Some(reads) = &self.0 {
            reads.own_ended();
        }
    }
}

impl Receivers {
    /// Has a look done: with those of other queues if that pays and nothing speaks against it, or else by itself.
    pub(super) fn run_look(self: &Arc<Self>, key: &Arc<Key>, look: Look) {
        let (receivers, key) = (Arc::clone(self), Arc::clone(key));
        match &self.shared_reads {
            Some(reads) if reads.is_busy() && self.may_share(&key, &look) => {
                reads.add(ReadyLook { receivers, key, look: Some(look) });
            }
            _ => receivers.run_alone(key, look),
        }
    }

    fn run_alone(self: Arc<Self>, key: Arc<Key>, look: Look) {
        let own = OwnLooks::new(self.shared_reads.as_ref());
        let tasks = self.shared.tasks.clone();
        tasks.spawn(async move {
            self.run_looks(&key, look, None).await;
            drop(own);
        });
    }

    /// What asks for nothing but the next messages, and for few of them, can share.
    fn may_share(&self, key: &Key, look: &Look) -> bool {
        let is_plain = key.filter.is_none() && key.fifo.is_none() && key.dead_letters.is_none();
        let share = self.shared.share_of_queue;
        if !is_plain
            || self.shared.settings.read != ReadMode::Indexed
            || self.shared.heavy.is_heavy(&self.queue)
            || self.shared.slow_rows.has_any(&self.queue)
            || self.shared.floors.since(&self.queue).is_some()
            || self.is_blocked()
        {
            return false;
        }
        let state = self.lock();
        !state.separation.holds()
            && state.kept_until.is_none()
            && look.wants <= share.rows
            && look.wants * state.message_bytes <= share.bytes
    }
}

impl ReadyLook {
    /// What it asks for, on behalf of all who came until now.
    fn read(&mut self) -> QueueRead<'_> {
        let share = self.receivers.shared.share_of_queue;
        if let Some(look) = &mut self.look
            && let Some(wait_queue) = self.receivers.lock().wait_queues.get_mut(&self.key)
        {
            wait_queue.extend(look, share.rows);
        }
        QueueRead {
            queue: &self.receivers.queue,
            vt: self.key.vt,
            qty: self.look.as_ref().map_or(1, |look| i32::try_from(look.wants).unwrap_or(1)),
            want_due: self.look.as_ref().is_some_and(|look| look.long_poll),
            max_bytes: share.bytes as u64,
        }
    }

    /// Whether something is so large, written out, that others waited for it.
    fn is_large(&self, found: &Found) -> bool {
        let most = self.receivers.shared.share_of_queue.bytes;
        !found.unreadable.is_empty()
            || found.messages.iter().any(|message| message.content_bytes() > most)
    }

    /// Deals out what was found, and looks again if that is due.
    fn end(mut self, outcome: Result<Found>, span: &Span) {
        let Some(look) = self.look.take() else { return };
        self.receivers.end_look(&self.key, look, outcome, span);
        self.receivers.look(&self.key);
        self.receivers.lock().remove_idle(&self.key);
    }

    /// Does it by itself, as others of its queue for a while.
    fn run_alone(mut self, separate: Option<Duration>) {
        let Some(look) = self.look.take() else { return };
        if let Some(time) = separate {
            self.receivers.lock().separation.begin(time);
        }
        Arc::clone(&self.receivers).run_alone(Arc::clone(&self.key), look);
    }
}

impl Drop for ReadyLook {
    fn drop(&mut self) {
        if let Some(look) = self.look.take() {
            self.receivers.fail(&self.key, &look, &Error::Unavailable(None));
            self.receivers.lock().remove_idle(&self.key);
        }
    }
}

impl Member for ReadyLook {
    async fn serve(members: Vec<Self>, conn: &mut Conn) {
        let mut ready = Vec::new();
        for member in members {
            if member.receivers.is_paused() {
                member.end(Ok(Found::default()), &Span::none());
            } else if !member.receivers.table.allows(Intent::Change) {
                member.run_alone(None);
            } else {
                ready.push(member);
            }
        }
        if ready.is_empty() {
            return;
        }
        // Two statements lock what they lock in the same order.
        ready.sort_by(|a, b| a.receivers.queue.cmp(&b.receivers.queue));
        let reads: Vec<QueueRead<'_>> = ready.iter_mut().map(Self::read).collect();
        let span = spans::statement("receive", None, iter::empty());
        let outcomes = store::receive_from_queues(conn, &reads).instrument(span.clone()).await;
        drop(reads);
        match outcomes {
            Ok(outcomes) => {
                let mut unreadable = Vec::new();
                for (member, outcome) in ready.into_iter().zip(outcomes) {
                    match outcome {
                        QueueOutcome::Done((found, took)) => {
                            member.receivers.note_read(took);
                            if took > SLOW || member.is_large(&found) {
                                member.receivers.lock().separation.begin(SEPARATE);
                            }
                            if !found.unreadable.is_empty() {
                                unreadable.push((
                                    Arc::clone(&member.receivers),
                                    found.unreadable.clone(),
                                ));
                            }
                            member.end(Ok(found), &span);
                        }
                        QueueOutcome::Retry => member.run_alone(Some(RETRY_SEPARATE)),
                        QueueOutcome::Separate => member.run_alone(Some(SEPARATE)),
                    }
                }
                // Nobody waits for an archive that is slow, or locked.
                for (receivers, messages) in unreadable {
                    let Receivers { queue, shared, .. } = &*receivers;
                    take_away(conn, queue, &messages, &shared.metrics).await;
                }
            }
            Err(error) if is_undone(&error) => {
                for member in ready {
                    member.run_alone(Some(RETRY_SEPARATE));
                }
            }
            Err(error) => {
                for member in ready {
                    member.end(Err(error.clone()), &span);
                }
            }
        }
    }

    fn fail(self, error: &Error) {
        self.end(Err(error.clone()), &Span::none());
    }
}
