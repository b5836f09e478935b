//! Batches of a lane that go into a statement with those of other queues.

use std::sync::Arc;

use crate::{
    domain::{Call, QueueName},
    store::{Error, Result},
};

use super::{
    super::{
        batch::WORTH_ANOTHER,
        separation::{RETRY_SEPARATE, SEPARATE},
    },
    BatchStatement, Lane, Request, ShareOutcome, State,
};

/// A batch of a lane that is in a shared statement. However that ends, the lane goes on.
pub(in crate::engine) struct Share<W: BatchStatement> {
    lane: Arc<Lane<W>>,
    requests: Vec<Request<W>>,
}

impl<W: BatchStatement> Lane<W> {
    /// Becomes ready to go with others, if that pays and nothing speaks against it.
    pub(super) fn join(self: &Arc<Self>, state: &mut State<W>) -> bool {
        let Some(statements) = &self.shared_statements else { return false };
        if !statements.is_busy() || !self.may_share(state) {
            return false;
        }
        state.sharing.is_member = true;
        Arc::clone(statements).add(Arc::clone(self));
        true
    }

    /// What is known to meet a lock, and what is large enough to be worth a statement, has one of its own.
    fn may_share(&self, state: &State<W>) -> bool {
        !state.blocked
            && state.locked.is_empty()
            && self.table.allows(W::INTENT)
            && !state.gathering.is_worth_another(WORTH_ANOTHER)
            && !state.sharing.separation.holds()
            && state.gathering.front().is_some_and(|(request, size)| {
                size.fits(self.share)
                    && self
                        .shared_statements
                        .as_ref()
                        .is_some_and(|s| s.is_shareable(&request.input))
            })
    }

    /// What goes into a shared statement, of a lane that was added for one. Nothing if nobody is left.
    pub(in crate::engine) fn take_share(self: &Arc<Self>) -> Option<Share<W>> {
        let mut share = Share { lane: Arc::clone(self), requests: Vec::new() };
        let mut state = self.lock();
        if let Some(statements) =
            self.shared_statements.as_ref().filter(|_| self.table.allows(W::INTENT))
        {
            let fits = |request: &Request<W>| statements.is_shareable(&request.input);
            share.requests = state.gathering.take_part(self.share, fits);
        }
        drop(state);
        share.requests.retain(|request| !request.reply.is_closed());
        // Dropped without a request, it has the lane go on.
        (!share.requests.is_empty()).then_some(share)
    }
}

impl<W: BatchStatement> Share<W> {
    pub(in crate::engine) fn queue(&self) -> &QueueName {
        &self.lane.queue
    }

    /// What the statement is to know of it. It is a round trip for each request.
    pub(in crate::engine) fn part(&self) -> (&W, &QueueName, Vec<&W::Input>) {
        self.requests.iter().for_each(|request| request.call.add_round_trip());
        let inputs = self.requests.iter().map(|request| &request.input).collect();
        (&self.lane.work, &self.lane.queue, inputs)
    }

    /// The requests that it serves.
    pub(in crate::engine) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.requests.iter().map(|request| &*request.call)
    }

    /// Answers with what became of the requests; what was not done is done by the lane itself.
    pub(in crate::engine) fn end(mut self, outcome: ShareOutcome<W::Output>) {
        let requests = std::mem::take(&mut self.requests);
        let separate = match &outcome {
            ShareOutcome::Done(_) => None,
            ShareOutcome::Retry => Some(RETRY_SEPARATE),
            ShareOutcome::Separate => Some(SEPARATE),
        };
        let left = match outcome {
            ShareOutcome::Done(outputs) => answer(requests, outputs),
            ShareOutcome::Retry | ShareOutcome::Separate => requests,
        };
        if let Some(time) = separate {
            self.lane.lock().sharing.separation.begin(time);
        }
        if !left.is_empty() {
            self.lane.run_separately(left);
        }
    }

    /// The whole failed, and it is not known that another try would fare better.
    pub(in crate::engine) fn fail(mut self, error: &Error) {
        for request in std::mem::take(&mut self.requests) {
            drop(request.reply.send(Err(error.clone())));
        }
    }
}

impl<W: BatchStatement> Drop for Share<W> {
    fn drop(&mut self) {
        let mut state = self.lane.lock();
        state.sharing.is_member = false;
        self.lane.ensure_worker(state);
    }
}

/// Answers those for which there is an answer, and returns the others.
pub(super) fn answer<W: BatchStatement>(
    requests: Vec<Request<W>>,
    outputs: Vec<Option<W::Output>>,
) -> Vec<Request<W>> {
    let mut outputs = outputs.into_iter();
    let mut left = Vec::new();
    for request in requests {
        match outputs.next().flatten() {
            // Who has gone has gone: it is done all the same.
            Some(output) => drop(request.reply.send(Result::Ok(output))),
            None => left.push(request),
        }
    }
    left
}
