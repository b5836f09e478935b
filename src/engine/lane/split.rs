//! Batches whose statement was undone as a whole, maybe because of one request.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use crate::store::{Conn, Result};

use super::{BatchStatement, Lane, Request};

/// Time in which the requests of such a batch are tried again at once. Those that are left then stand in line again.
const LIMIT: Duration = Duration::from_secs(1);

impl<W: BatchStatement> Lane<W> {
    /// Answers a batch, which `began` then, with what became of it; returns those that are worth another try, as
    /// something was locked. Where a trigger has cancelled the statement, ended the session, or taken all the time that a
    /// statement may, each request is tried by a statement of its own.
    pub(super) async fn finish(
        self: &Arc<Self>,
        conn: &mut Conn,
        batch: Vec<Request<W>>,
        outcome: Result<Vec<W::Output>>,
        began: Instant,
    ) -> Vec<Request<W>> {
        match &outcome {
            Err(error) if batch.len() > 1 && error.may_be_one_requests() => {}
            _ => return Self::answer(batch, outcome),
        }
        let mut batch = batch.into_iter();
        let mut locked = Vec::new();
        while began.elapsed() < LIMIT
            && let Some(request) = batch.next()
        {
            let outcome = self.run_statement(conn, std::slice::from_ref(&request), true).await;
            locked.extend(Self::answer(vec![request], outcome));
        }
        self.try_one_by_one(batch);
        locked
    }
}
