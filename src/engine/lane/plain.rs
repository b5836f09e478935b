//! What a lane does at less cost, as long as nothing is in the way.

use tokio::time::Instant;

use crate::store::Conn;

use super::{super::multi_queue::is_undone, BatchStatement, Lane, Request, sharing::answer};

impl<W: BatchStatement> Lane<W> {
    /// Does and answers what needs no more than that, and returns the others.
    pub(super) async fn run_plainly(
        &self,
        conn: &mut Conn,
        batch: Vec<Request<W>>,
    ) -> Vec<Request<W>> {
        let inputs: Vec<&W::Input> = batch.iter().map(|request| &request.input).collect();
        let began = Instant::now();
        let outcome = self.work.run_plainly(conn, &self.queue, &inputs).await;
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
