//! Transactions that do nothing but send and publish: they have a statement that is for nothing else.

use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::{Instrument, debug};

use crate::{
    engine::spans,
    store::{self, Conn, Operation, SentTogether, Transacted},
};

use super::{
    LIMIT, LOCKED_TIME, Request, SEPARATE_TIME, Transactions, Turn, answer_all, is_undone, subjects,
};

impl<T: Send + DeserializeOwned + 'static> Transactions<T> {
    /// Does those of a batch that only send, and returns what is left to be done otherwise.
    pub(super) async fn send_together(
        &self,
        conn: &mut Conn,
        batch: Vec<Request<T>>,
    ) -> Vec<Request<T>> {
        let may_send = |request: &Request<T>| request.only_sends() && !self.is_excluded(request);
        let (sends, mut rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(may_send);
        if sends.len() < 2 {
            rest.extend(sends);
            return rest;
        }
        for request in &sends {
            request.call.add_round_trip();
        }
        let requests: Vec<&[Operation]> =
            sends.iter().map(|request| &*request.operations).collect();
        let span = spans::statement("send", None, sends.iter().map(|request| &*request.call));
        let began = Instant::now();
        match store::send_together(conn, &requests, LIMIT).instrument(span).await {
            Ok(SentTogether::Done(done)) => {
                for (request, done) in sends.into_iter().zip(done) {
                    // Who has gone has gone: it is done all the same.
                    drop(request.reply.send(Turn::Settled(Transacted::Done(done))));
                }
                return rest;
            }
            Ok(SentTogether::Hindered(ops)) => {
                let all: Vec<&Operation> = requests.iter().copied().flatten().collect();
                self.exclude(ops.iter().filter_map(|op| all.get(*op).copied()));
            }
            Err(error) if is_undone(&error) => {
                debug!(%error, "transactions that only send are done otherwise");
                if began.elapsed() > LIMIT {
                    // Nobody is to wait for as long once more.
                    for request in &sends {
                        self.keep_separate(request, SEPARATE_TIME);
                    }
                    answer_all(sends, || Turn::Alone(None));
                    return rest;
                }
                self.exclude(requests.iter().copied().flatten());
            }
            Err(error) => {
                answer_all(sends, || Turn::Failed(error.clone()));
                return rest;
            }
        }
        rest.extend(sends);
        rest
    }

    /// For a while what these are about is not tried again like this, which would be in vain.
    fn exclude<'a>(&self, operations: impl Iterator<Item = &'a Operation>) {
        let subjects = operations.flat_map(|operation| subjects(std::slice::from_ref(operation)));
        self.0.excluded_from_sends.insert(subjects, LOCKED_TIME);
    }

    fn is_excluded(&self, request: &Request<T>) -> bool {
        self.0.excluded_from_sends.contains_any(subjects(&request.operations))
    }
}

impl<T: Send + DeserializeOwned + 'static> Request<T> {
    /// Whether it does nothing but send, or publishes once and does nothing else.
    fn only_sends(&self) -> bool {
        let publishes = matches!(&*self.operations, [Operation::Publish(..)]);
        let sends = |operation: &Operation| matches!(operation, Operation::Send(..));
        self.once.is_none() && (publishes || self.operations.iter().all(sends))
    }
}
