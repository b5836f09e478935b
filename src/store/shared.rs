//! A question that is asked once for everybody who wants to know.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// What was found, and whether it is still being looked for.
#[derive(Debug)]
pub(super) struct Shared<T> {
    /// Time for which an answer holds.
    fresh: Duration,
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    last: Option<(Instant, T)>,
    under_way: Option<watch::Receiver<Option<T>>>,
}

impl<T: Copy + Send + Sync + 'static> Shared<T> {
    /// An answer that holds for so long.
    pub(super) fn new(fresh: Duration) -> Self {
        let state = State { last: None, under_way: None };
        Self { fresh, state: Arc::new(Mutex::new(state)) }
    }

    /// The answer: one that is fresh, or that of the look under way, or that of a new one. A look is
    /// a task of its own, which goes on if whoever asked for it leaves. Nothing if it came to grief.
    pub(super) async fn get<F>(&self, look: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut answer = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match (&state.last, &state.under_way) {
                (Some((at, last)), _) if at.elapsed() < self.fresh => return Some(*last),
                // A task that ended without an answer has let go of its end.
                (_, Some(answer)) if answer.has_changed().is_ok() => answer.clone(),
                _ => {
                    let answer = self.begin(look());
                    state.under_way = Some(answer.clone());
                    answer
                }
            }
        };
        let found = answer.wait_for(Option::is_some).await;
        found.ok().and_then(|found| *found)
    }

    fn begin(&self, look: impl Future<Output = T> + Send + 'static) -> watch::Receiver<Option<T>> {
        let (tell, answer) = watch::channel(None);
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let found = look.await;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.last = Some((Instant::now(), found));
            state.under_way = None;
            drop(state);
            tell.send_replace(Some(found));
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        sync::atomic::{AtomicU32, Ordering::Relaxed},
    };

    use tokio::{
        task::JoinSet,
        time::{advance, sleep, timeout},
    };

    use super::*;

    const FRESH: Duration = Duration::from_millis(250);
    const LOOK: Duration = Duration::from_secs(1);

    /// A look that takes its time, and finds how many there were before it.
    fn looks() -> impl Fn() -> Pin<Box<dyn Future<Output = u32> + Send>> + Send + Sync {
        let count = AtomicU32::new(0);
        move || {
            let number = count.fetch_add(1, Relaxed);
            Box::pin(async move {
                sleep(LOOK).await;
                number
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_asks_once_and_nobody_stands_in_line() {
        let (shared, look) = (Arc::new(Shared::new(FRESH)), Arc::new(looks()));
        let started = Instant::now();
        let ask = |_| {
            let (shared, look) = (Arc::clone(&shared), Arc::clone(&look));
            async move { shared.get(&*look).await }
        };
        let answers = (0..1000).map(ask).collect::<JoinSet<_>>().join_all().await;
        assert!(answers.len() == 1000 && answers.iter().all(|answer| *answer == Some(0)));
        assert_eq!(started.elapsed(), LOOK);
        advance(FRESH / 2).await;
        assert_eq!(shared.get(&*look).await, Some(0), "fresh");
        advance(FRESH).await;
        assert_eq!(shared.get(&*look).await, Some(1), "not any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_goes_on_without_whoever_asked_for_it() {
        let (shared, look) = (Shared::new(FRESH), looks());
        timeout(LOOK / 2, shared.get(&look)).await.expect_err("it takes longer");
        let started = Instant::now();
        assert_eq!(shared.get(&look).await, Some(0));
        assert_eq!(started.elapsed(), LOOK / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_look_that_came_to_grief_there_is_another() {
        let (shared, look) = (Shared::new(FRESH), looks());
        let broken = shared.get(|| async { panic!("as the test wishes") }).await;
        assert_eq!(broken, None);
        assert_eq!(shared.get(&look).await, Some(0));
    }
}
