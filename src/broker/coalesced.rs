//! Questions that are asked once for all who ask at about the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Answers to questions, each of which is asked once at a time: who asks meanwhile is answered by the next
/// time it is asked, so that no answer is older than its question.
#[derive(Debug)]
pub(super) struct Coalesced<Q, A> {
    /// Who waits for the next answer to each question that is being asked.
    waiting: Arc<Mutex<Waiting<Q, A>>>,
    tasks: TaskTracker,
}

type Waiting<Q, A> = HashMap<Q, Vec<oneshot::Sender<A>>>;

impl<Q, A> Coalesced<Q, A>
where
    Q: Clone + Eq + Hash + Send + 'static,
    A: Clone + Send + 'static,
{
    /// Asks in tasks of their own, which go on if whoever asked leaves.
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self { waiting: Arc::default(), tasks }
    }

    /// The answer to a question; `ask` is used for as long as there is somebody who wants to know. Nothing if
    /// it panicked.
    pub(super) async fn get<F>(
        &self,
        question: Q,
        ask: impl Fn() -> F + Send + 'static,
    ) -> Option<A>
    where
        F: Future<Output = A> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let is_first = {
            let mut waiting = lock(&self.waiting);
            let others = waiting.get_mut(&question);
            let is_first = others.is_none();
            match others {
                Some(others) => others.push(reply),
                None => drop(waiting.insert(question.clone(), vec![reply])),
            }
            is_first
        };
        if is_first {
            let asking = Asking { question, waiting: Arc::clone(&self.waiting) };
            self.tasks.spawn(async move {
                while let Some(curious) = asking.next() {
                    let answer = ask().await;
                    for reply in curious {
                        // Who has gone has gone.
                        drop(reply.send(answer.clone()));
                    }
                }
            });
        }
        answer.await.ok()
    }
}

/// A question that is being asked, until this is dropped.
struct Asking<Q: Eq + Hash, A> {
    question: Q,
    waiting: Arc<Mutex<Waiting<Q, A>>>,
}

impl<Q: Eq + Hash, A> Asking<Q, A> {
    /// Who wants to know; nothing if nobody does, and the question is not being asked any more.
    fn next(&self) -> Option<Vec<oneshot::Sender<A>>> {
        let mut waiting = lock(&self.waiting);
        let curious = waiting.get_mut(&self.question).map(std::mem::take)?;
        let curious: Vec<_> = curious.into_iter().filter(|reply| !reply.is_closed()).collect();
        if curious.is_empty() {
            waiting.remove(&self.question);
            return None;
        }
        Some(curious)
    }
}

impl<Q: Eq + Hash, A> Drop for Asking<Q, A> {
    /// After a panic: those who wait learn that there is no answer.
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.waiting).remove(&self.question);
        }
    }
}

fn lock<Q, A>(waiting: &Mutex<Waiting<Q, A>>) -> MutexGuard<'_, Waiting<Q, A>> {
    // Whole between any two statements: a panic elsewhere does not spoil it.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering::Relaxed},
        time::Duration,
    };

    use tokio::{
        task::JoinSet,
        time::{Instant, sleep},
    };

    use super::*;

    const TAKES: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_crowd_is_answered_by_two_and_no_answer_is_older_than_its_question() {
        let questions = Arc::new(Coalesced::new(TaskTracker::new()));
        let asked = Arc::new(AtomicU32::new(0));
        let began = Instant::now();
        let mut crowd = JoinSet::new();
        for n in 0..100_u32 {
            let (questions, asked) = (Arc::clone(&questions), Arc::clone(&asked));
            crowd.spawn(async move {
                sleep(TAKES / 200 * n).await;
                let at = began.elapsed();
                let ask = move || {
                    let asked = Arc::clone(&asked);
                    async move {
                        asked.fetch_add(1, Relaxed);
                        let seen = began.elapsed();
                        sleep(TAKES).await;
                        seen
                    }
                };
                let seen = questions.get("q", ask).await.expect("answered");
                assert!(seen >= at, "{n}: {seen:?} {at:?}");
            });
        }
        crowd.join_all().await;
        assert_eq!(asked.load(Relaxed), 2);
        assert_eq!(began.elapsed(), TAKES * 2);
        assert!(lock(&questions.waiting).is_empty());
    }

    #[tokio::test]
    async fn after_a_panic_it_is_asked_anew() {
        let questions = Coalesced::new(TaskTracker::new());
        let broken = questions.get("q", || async { panic!("as the test wishes") }).await;
        assert_eq!(broken, None::<u32>);
        assert_eq!(questions.get("q", || async { 7 }).await, Some(7));
    }
}
