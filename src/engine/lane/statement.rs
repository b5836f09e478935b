//! What a kind of statement is to a lane.

use std::future::ready;

use tokio::time::Instant;

use crate::{
    domain::QueueName,
    store::{Conn, Result},
};

use super::super::{batch::WORTH_ANOTHER, table_lock::Intent};

/// A kind of statement that serves several requests.
pub(in crate::engine) trait BatchStatement: Send + Sync + 'static {
    /// What a request brings.
    type Input: Send + Sync + 'static;
    /// What it is answered.
    type Output: Send + 'static;
    /// Its name in spans.
    const NAME: &'static str;
    /// What it does to the table of the queue.
    const INTENT: Intent = Intent::Change;

    /// Does what can be done at less cost than by [`BatchStatement::run`], and returns the answers in order. Where
    /// there is none, nothing was done.
    fn run_plainly(
        &self,
        _conn: &mut Conn,
        _queue: &QueueName,
        _inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Vec<Option<Self::Output>>>> + Send {
        ready(Ok(Vec::new()))
    }

    /// Runs one statement for all and returns an answer for each, in order. A row that its table refuses,
    /// or that somebody has locked, fails the whole.
    fn run(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Vec<Self::Output>>> + Send;

    /// The same in one statement that does one after the other, so that each fails alone; it waits for
    /// nothing that is locked.
    fn run_each(
        &self,
        conn: &mut Conn,
        queue: &QueueName,
        inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Vec<Self::Output>>> + Send;

    /// Rows in line that are worth a statement beside one that is under way, going by the first of them: where a row
    /// is dear, what a statement costs by itself is little, and one is worked on while the other waits for the log.
    fn worth_another(_first: &Self::Input) -> usize {
        WORTH_ANOTHER
    }

    /// Whether a request waits for those before it to be committed in any case.
    fn is_in_turn(_input: &Self::Input) -> bool {
        false
    }

    /// Until when a request is tried that meets a lock, if it is said.
    fn locked_until(_input: &Self::Input) -> Option<Instant> {
        None
    }

    /// Whether an answer says that nothing was done because somebody has locked what it is about.
    fn is_locked(output: &Self::Output) -> bool;
}

/// What a shared statement came to for one lane.
#[derive(Debug)]
pub(in crate::engine) enum ShareOutcome<O> {
    /// The answers in order. Where there is none, nothing was done, and the lane does it by itself.
    Done(Vec<Option<O>>),
    /// Nothing was done, and the lane does it by itself.
    Retry,
    /// The same, and so it will be for a while.
    Separate,
}
