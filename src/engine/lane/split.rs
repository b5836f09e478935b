//! Batches whose statement was undone as a whole, maybe because of one request.

use tokio::time::{Duration, Instant};

use crate::store::{Conn, Result};

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
            Err(error) if batch.len() > 1 && error.may_be_one_requests() => error,
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
