//! The log of who did what by the dashboard.

use std::pin::Pin;

use tracing::info;

use crate::{broker::Broker, http::WireError};

use super::super::failure::Failure;

/// What is done: by whom, and to which queue.
#[derive(Clone, Debug)]
pub(in super::super) struct Deed {
    pub(in super::super) who: String,
    pub(in super::super) action: &'static str,
    pub(in super::super) queue: String,
}

/// What came of it. What is about no number has none.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Tally {
    /// How many messages it was meant for.
    pub(in super::super) asked: Option<i64>,
    /// To how many it was done.
    pub(in super::super) done: Option<i64>,
    /// The code of the error that ended it.
    pub(in super::super) error: Option<&'static str>,
}

/// What does it.
pub(in super::super) type Work<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// Does it, and writes one line of what came of it, whether or not whoever asked is still there.
pub(in super::super) async fn audited<T: Send + 'static>(
    broker: &Broker,
    deed: Deed,
    tally: fn(&T) -> Tally,
    work: Work<T>,
) -> Result<T, Failure> {
    let work = async move {
        let outcome = work.await;
        deed.note(match &outcome {
            Ok(done) => tally(done),
            Err(failure) => Tally { error: Some(failure.code()), ..Tally::default() },
        });
        outcome
    };
    broker.detached(work).await?
}

impl Deed {
    pub(in super::super) fn new(who: &str, action: &'static str, queue: &str) -> Self {
        Self { who: who.to_owned(), action, queue: queue.to_owned() }
    }

    fn note(&self, Tally { asked, done, error }: Tally) {
        let Self { who, action, queue } = self;
        info!(target: "audit", who, action, queue, asked, done, error, "audit");
    }
}
