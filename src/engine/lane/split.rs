//! Batches whose statement was undone as a whole, maybe because of one request.

use tokio::time::{Duration, Instant};

use crate::store::{Conn, Error, Result};

use super::{BatchStatement, Lane, Request};

/// Time in which the requests of such a batch are tried again. One that took longer took all that a statement may.
const LIMIT: Duration = Duration::from_secs(1);

impl<W: BatchStatement> Lane<W> {
    /// Answers a batch, which `began` then, with what became of it; returns those that are worth another try, as
    /// something was locked. Where a trigger has cancelled the statement, or ended the session, each request is
    /// tried by a statement of its own.
    pub(super) async fn finish(
        &self,
        conn: &mut Conn,
        batch: Vec<Request<W>>,
        outcome: Result<Vec<W::Output>>,
        began: Instant,
    ) -> Vec<Request<W>> {
        let error = match outcome {
            Err(error) if batch.len() > 1 && may_be_one_requests(&error) => error,
            outcome => return Self::answer(batch, outcome),
        };
        let mut locked = Vec::new();
        for request in batch {
            let outcome = if began.elapsed() < LIMIT {
                self.run_statement(conn, std::slice::from_ref(&request), true).await
            } else {
                Err(error.clone())
            };
            locked.extend(Self::answer(vec![request], outcome));
        }
        locked
    }
}

/// Whether it is certain that nothing was done, and not that another try would end alike.
fn may_be_one_requests(error: &Error) -> bool {
    match error {
        Error::Timeout => true,
        Error::Unexpected(source) => source.as_database_error().is_some(),
        // By hand, or by a trigger: others of the server's are told otherwise.
        Error::Unavailable(Some(source)) => {
            source.as_database_error().and_then(|e| e.code()).is_some_and(|code| code == "57P01")
        }
        _ => false,
    }
}
