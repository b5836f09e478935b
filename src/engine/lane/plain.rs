//! What a lane does at less cost, as long as nothing is in the way.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use crate::store::Conn;

use super::{super::multi_queue::is_undone, BatchStatement, Lane, Request, sharing::answer};

impl<W: BatchStatement> Lane<W> {
    /// Does and answers what needs no more than that, and returns the others.
    pub(super) async fn run_plainly(
        self: &Arc<Self>,
        conn: &mut Conn,
        batch: Vec<Request<W>>,
    ) -> Vec<Request<W>> {
        let inputs: Vec<&W::Input> = batch.iter().map(|request| &request.input).collect();
        let began = Instant::now();
        let run = self.work.run_plainly(conn, &self.queue, &inputs);
        let outcome = run.instrument(self.span_of(&batch)).await;
        if matches!(&outcome, Ok(outputs) if outputs.is_empty()) {
            return batch;
        }
        for request in &batch {
            request.call.add_round_trip();
        }
        match outcome {
            Ok(outputs) => answer(batch, outputs),
            Err(error) if is_undone(&error) => batch,
            Err(error) => self.finish(conn, batch, Err(error), began).await,
        }
    }
}
