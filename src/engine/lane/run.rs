//! The statements of a batch.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use crate::store::{Conn, Error, Result};

use super::{BatchStatement, Lane, Request, load::UnderWay};

/// How often a statement is tried that others undo.
const MOST_ATTEMPTS: u32 = 3;

impl<W: BatchStatement> Lane<W> {
    /// Runs a batch, in which each fails alone. What is locked is tried again beside the lane; while
    /// nothing gets through at all, a statement would only be in the way of others.
    pub(super) async fn run(
        self: &Arc<Self>,
        conn: &mut Option<Conn>,
        batch: Vec<Request<W>>,
        under_way: Option<UnderWay<'_, W>>,
    ) {
        if self.is_blocked() {
            return self.try_later(batch);
        }
        let connected = match self.connect(conn).await {
            Ok(connected) => connected,
            Err(error) => return drop(Self::answer(batch, Err(error))),
        };
        if self.is_blocked() {
            // That became known while this waited for a connection.
            return self.try_later(batch);
        }
        self.serve(self.run_on(connected, batch), under_way).await;
    }

    async fn run_on(self: &Arc<Self>, connected: &mut Conn, batch: Vec<Request<W>>) {
        // While some are known to be locked, nobody waits to find out which.
        let careful = !self.lock().locked.is_empty();
        let batch = if careful { batch } else { self.run_plainly(connected, batch).await };
        if batch.is_empty() {
            return;
        }
        let began = Instant::now();
        let outcome = match self.run_statement(connected, &batch, careful).await {
            Err(error) if error.is_about_rows() && !careful => {
                self.run_statement(connected, &batch, true).await
            }
            outcome => outcome,
        };
        self.try_later(self.finish(connected, batch, outcome, began).await);
    }

    /// The statements go on every request's account, so on nobody's in particular.
    async fn connect<'a>(&self, conn: &'a mut Option<Conn>) -> Result<&'a mut Conn> {
        Ok(match conn {
            Some(conn) => conn,
            None => conn.insert(self.shared.db.acquire(&Arc::default()).await?),
        })
    }

    /// Runs one statement for a batch, again if others undid it.
    pub(super) async fn run_statement(
        &self,
        conn: &mut Conn,
        batch: &[Request<W>],
        one_by_one: bool,
    ) -> Result<Vec<W::Output>> {
        let span = self.span_of(batch);
        let mut attempts = 0;
        let outcome = loop {
            attempts += 1;
            for request in batch {
                request.call.add_round_trip();
            }
            let inputs: Vec<&W::Input> = batch.iter().map(|request| &request.input).collect();
            let outcome = if one_by_one {
                self.work.run_each(conn, &self.queue, &inputs).instrument(span.clone()).await
            } else {
                self.work.run(conn, &self.queue, &inputs).instrument(span.clone()).await
            };
            if !matches!(outcome, Err(Error::Deadlock(_))) || attempts >= MOST_ATTEMPTS {
                break outcome;
            }
        };
        if one_by_one {
            let is_blocked = matches!(outcome, Err(Error::Locked));
            self.lock().blocked = is_blocked;
            if is_blocked {
                self.table.look(conn).await;
            }
        }
        outcome
    }
}
