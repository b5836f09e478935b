//! What a statement that serves several queues is.

use crate::{
    domain::QueueName,
    store::{Conn, Result},
};

use super::super::lane::{BatchStatement, ShareOutcome};

/// A kind of statement that serves several queues.
pub(in crate::engine) trait MultiQueueStatement: BatchStatement + Sized {
    /// Whether a request may go with those of other queues.
    fn is_shareable(input: &Self::Input) -> bool;

    /// Runs one statement for all, and returns what it came to for each, in order.
    fn run_for_all(
        conn: &mut Conn,
        parts: &[Part<'_, Self>],
    ) -> impl Future<Output = Result<Vec<ShareOutcome<Self::Output>>>> + Send;
}

/// What one queue brings to a statement.
pub(in crate::engine) struct Part<'a, W: BatchStatement> {
    pub(in crate::engine) work: &'a W,
    pub(in crate::engine) queue: &'a QueueName,
    pub(in crate::engine) inputs: Vec<&'a W::Input>,
}

impl<'a, W: BatchStatement> From<(&'a W, &'a QueueName, Vec<&'a W::Input>)> for Part<'a, W> {
    fn from((work, queue, inputs): (&'a W, &'a QueueName, Vec<&'a W::Input>)) -> Self {
        Self { work, queue, inputs }
    }
}
