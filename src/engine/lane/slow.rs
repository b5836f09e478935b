//! Statements that take long, be it because of one row: requests that come meanwhile do not wait for them, and what
//! was with such a row in a statement that ran out of time is tried again one by one.

use std::{pin::pin, sync::Arc};

use tokio::{
    select,
    time::{Duration, timeout},
};

use super::{BatchStatement, Lane, Request, State, load::UnderWay};

/// Nobody who is not in it waits for a statement that takes longer than this.
pub(in crate::engine) const LONG: Duration = Duration::from_millis(250);
/// For how long each request has a statement of its own, after one for several ran out of time.
const ONE_BY_ONE: Duration = Duration::from_secs(10);

impl<W: BatchStatement> Lane<W> {
    /// Does a worker's work on a batch. Where that takes long, what it does no longer counts as under way nor, as
    /// soon as there is a place for it, the worker as one who serves the line.
    pub(super) async fn serve(
        self: &Arc<Self>,
        work: impl Future<Output = ()>,
        under_way: Option<UnderWay<'_, W>>,
    ) {
        let mut work = pin!(work);
        if timeout(LONG, &mut work).await.is_err() {
            drop(under_way);
            let _place = select! {
                biased;
                () = &mut work => return,
                place = self.held_up.enter() => place,
            };
            let _held_up = HeldUp::new(self);
            work.await;
        }
    }

    /// Puts requests of a statement that was undone in line again, where each will have one of its own.
    pub(super) fn try_one_by_one(
        self: &Arc<Self>,
        requests: impl ExactSizeIterator<Item = Request<W>>,
    ) {
        if requests.len() == 0 {
            return;
        }
        let mut state = self.lock();
        state.one_by_one.begin(ONE_BY_ONE);
        for request in requests {
            let weight = request.weight;
            state.gathering.push_again(request, weight);
        }
        self.ensure_worker(state);
    }
}

impl<W: BatchStatement> State<W> {
    /// Who works on what stands in line, or goes with others for it.
    pub(super) fn served_by(&self) -> usize {
        self.workers + usize::from(self.sharing.is_member)
    }

    /// The same without those that are held up.
    pub(super) fn active(&self) -> usize {
        self.served_by() - self.held_up
    }

    /// Whether what stands in line is worth a statement beside those under way.
    pub(super) fn is_worth_another(&self) -> bool {
        self.gathering.front().is_some_and(|(request, _)| {
            self.gathering.is_worth_another(W::worth_another(&request.input))
        })
    }

    /// Whether the next request need not wait for statements that take long.
    pub(super) fn goes_beside(&self) -> bool {
        self.gathering.front().is_some_and(|(request, _)| !W::is_in_turn(&request.input))
    }
}

/// A worker whose statement takes long, until this is dropped.
struct HeldUp<W: BatchStatement>(Arc<Lane<W>>);

impl<W: BatchStatement> HeldUp<W> {
    fn new(lane: &Arc<Lane<W>>) -> Self {
        let mut state = lane.lock();
        state.held_up += 1;
        lane.ensure_worker(state);
        Self(Arc::clone(lane))
    }
}

impl<W: BatchStatement> Drop for HeldUp<W> {
    fn drop(&mut self) {
        self.0.lock().held_up -= 1;
    }
}
