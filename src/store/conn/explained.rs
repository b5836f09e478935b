//! What a statement failed for, where its error does not say.

use sqlx::{
    Arguments, Row,
    postgres::{PgArguments, PgDatabaseError, PgRow},
};

use crate::domain::QueueName;

use super::{
    super::{
        db::Limit,
        decode::Text,
        error::{Access, Error},
    },
    Conn,
};

/// What is found of a queue whose statement failed: whether it has a table, and what of it is not as PGMQ makes it.
const LOOK: &str = "/* queue_is_there */ SELECT pgmq_gateway.table_of($1) IS NOT NULL, \
                    pgmq_gateway.differing_column($1)";

impl Conn {
    /// What to make of a statement that failed because something is missing, or is not what it should be: the queue
    /// that it was about may have been dropped in that moment, or its table altered. Whatever else is missing is no
    /// fault of the caller's.
    pub(super) async fn explain(
        &mut self,
        subject: Option<QueueName>,
        error: Error,
        limit: Limit,
    ) -> Error {
        if !error.may_be_of_table() {
            return error;
        }
        let is_asked = subject.filter(|_| !self.in_transaction);
        let found = match &is_asked {
            Some(queue) => self.look_at_table(queue, limit).await,
            None => None,
        };
        match (found, error) {
            (Some((true, Some(what))), error) => {
                Error::TableDiffers { what: what.0.into(), source: error.into() }
            }
            (Some((false, _)), Error::MissingRelation(_)) => Error::QueueNotFound,
            // Dropped and made anew, by now.
            (Some((true, None)), Error::MissingRelation(source)) => Error::Deadlock(source),
            // So is what the database was prepared with, maybe, until that is done again.
            (None, Error::MissingRelation(source)) if is_gone(&source) => {
                Error::Unavailable(Some(source))
            }
            // So is one of several queues; the next try tells which.
            (None, Error::MissingRelation(source)) if has_lost_columns(&source) => {
                Error::Deadlock(source)
            }
            (None, Error::MissingRelation(source)) => Error::Unexpected(source),
            (_, error) => error,
        }
    }

    async fn look_at_table(
        &mut self,
        queue: &QueueName,
        limit: Limit,
    ) -> Option<(bool, Option<Text>)> {
        let mut arguments = PgArguments::default();
        if arguments.add(queue.as_str()).is_err() || self.ready().await.is_err() {
            return None;
        }
        self.call.add_round_trip();
        let mut found = None;
        let mut take = |row: PgRow| {
            found = Some((row.try_get(0)?, row.try_get(1)?));
            Ok(())
        };
        if let Err(failed) = self.attempt(LOOK, arguments, limit, &mut take).await {
            self.sort(&failed, Access::Repeatable, limit.brief);
        }
        found
    }
}

/// Whether it is a table that was missing, or went in that moment.
fn is_gone(error: &sqlx::Error) -> bool {
    of_server(error).is_some_and(|e| e.code() == "42P01" || e.routine() == Some("relation_open"))
}

/// Whether a table was dropped in the moment when it was asked for a right on a column: that is gone before its table.
fn has_lost_columns(error: &sqlx::Error) -> bool {
    of_server(error).is_some_and(|e| e.routine() == Some("convert_column_name"))
}

fn of_server(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref())
}
