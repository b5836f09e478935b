//! The tasks of a gateway that go on for as long as it does.

use std::{collections::HashMap, future::Future};

use tokio::task::{Id, JoinError, JoinSet};

/// Tasks with names. They are stopped when this is dropped.
#[derive(Debug, Default)]
pub(super) struct BackgroundTasks {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl BackgroundTasks {
    /// Has a task run.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits for the first that ends, and says how it failed if it did; `None` once there is none left.
    pub(super) async fn next_end(&mut self) -> Option<(&'static str, Option<JoinError>)> {
        let (id, error) = match self.running.join_next_with_id().await? {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        Some((self.names.remove(&id).unwrap_or_default(), error))
    }

    /// Waits for one of them, if it still runs.
    pub(super) async fn join(&mut self, name: &str) -> Option<JoinError> {
        while self.names.values().any(|running| *running == name) {
            match self.next_end().await {
                Some((ended, error)) if ended == name => return error,
                Some(_) => {}
                None => break,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_is_named() {
        let mut tasks = BackgroundTasks::default();
        tasks.spawn("steady", pending());
        tasks.spawn("broken", async { panic!("as it must not") });
        let (name, error) = tasks.next_end().await.expect("one ends");
        assert_eq!((name, error.expect("it panicked").is_panic()), ("broken", true));
        assert!(tasks.join("broken").await.is_none(), "it is known to have ended");
    }

    #[tokio::test]
    async fn one_is_waited_for_whatever_becomes_of_the_others() {
        let mut tasks = BackgroundTasks::default();
        tasks.spawn("others", async { panic!("before") });
        tasks.spawn("last", async { tokio::task::yield_now().await });
        tasks.spawn("steady", pending());
        assert!(tasks.join("last").await.is_none());
        assert_eq!(tasks.names.into_values().collect::<Vec<_>>(), ["steady"]);
        let mut none = BackgroundTasks::default();
        none.spawn("only", ready(()));
        none.next_end().await.expect("it ends");
        assert!(none.next_end().await.is_none());
    }
}
