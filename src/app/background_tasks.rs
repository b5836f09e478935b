//! The tasks of a gateway that go on for as long as it does.

use std::{collections::HashMap, future::Future};

use tokio::task::{Id, JoinError, JoinSet};

/// Tasks with names. They are stopped when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Parts {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    /// Has a task run.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let id = self.running.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits for the first that ends, and says how it came to grief if it did; `None` once there is
    /// none left.
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
    async fn a_part_that_comes_to_grief_is_named() {
        let mut parts = Parts::default();
        parts.spawn("steady", pending());
        parts.spawn("broken", async { panic!("as it must not") });
        let (name, error) = parts.next_end().await.expect("one ends");
        assert_eq!((name, error.expect("it panicked").is_panic()), ("broken", true));
        assert!(parts.join("broken").await.is_none(), "it is known to have ended");
    }

    #[tokio::test]
    async fn one_is_waited_for_whatever_becomes_of_the_others() {
        let mut parts = Parts::default();
        parts.spawn("others", async { panic!("before") });
        parts.spawn("last", async { tokio::task::yield_now().await });
        parts.spawn("steady", pending());
        assert!(parts.join("last").await.is_none());
        assert_eq!(parts.names.into_values().collect::<Vec<_>>(), ["steady"]);
        let mut none = Parts::default();
        none.spawn("only", ready(()));
        none.next_end().await.expect("it ends");
        assert!(none.next_end().await.is_none());
    }
}
