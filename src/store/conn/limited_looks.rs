//! Statements that only look, with limits of their own.

use std::{sync::Arc, time::Duration};

use sqlx::{Execute, postgres::PgRow};
use tokio::time::Instant;

use crate::domain::QueueName;

use super::{
    super::{
        db::Limit,
        error::{Access, Error, Result},
        pool::Lease,
        statement::Statement,
        verdict::Retries,
    },
    Conn,
};

/// Time that a statement waits for locks where it may take long otherwise.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

impl Conn {
    /// Runs a statement that only looks and may take up to `limit`, whatever the server is told
    /// otherwise. It does not wait as long for locks.
    pub(in super::super) async fn look_patiently(
        &mut self,
        query: Statement<'_>,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        let settings = [("statement_timeout", limit), ("lock_timeout", LOCK_LIMIT)];
        self.look_with(&settings, query, Limit { time: limit, brief: false }).await
    }

    /// Runs a statement that only looks, waits for no lock longer than `lock_limit`, and takes no
    /// longer than `limit`: a table that takes longer ends it, and only a server that does not answer then the
    /// connection.
    pub(in super::super) async fn look_briefly(
        &mut self,
        query: Statement<'_>,
        lock_limit: Duration,
        limit: Duration,
    ) -> Result<Vec<PgRow>> {
        let settings = [("statement_timeout", limit), ("lock_timeout", lock_limit)];
        self.look_with(&settings, query, Limit { time: limit, brief: true }).await
    }

    async fn look_with(
        &mut self,
        settings: &[(&str, Duration)],
        mut query: Statement<'_>,
        limit: Limit,
    ) -> Result<Vec<PgRow>> {
        let (subject, sql) = (self.subject.take(), query.sql());
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode);
        let arguments = arguments.map_err(Error::unexpected)?.unwrap_or_default();
        let mut retries = Retries::default();
        loop {
            let query = sqlx::query_with(sql, arguments.clone());
            let outcome = self.look_in_transaction(settings, subject.clone(), query, limit).await;
            // Its session was not as it should be, and is closed.
            let is_altered = matches!(outcome, Err(Error::Deadlock(_))) && self.lease.is_none();
            if !is_altered || !retries.allow_anew() {
                return outcome;
            }
        }
    }

    async fn look_in_transaction(
        &mut self,
        settings: &[(&str, Duration)],
        subject: Option<QueueName>,
        query: Statement<'_>,
        limit: Limit,
    ) -> Result<Vec<PgRow>> {
        let set = |(name, value): &(&str, Duration)| {
            format!("pg_catalog.set_config('{name}', '{}', true)", value.as_millis())
        };
        let set = format!("SELECT {}", settings.iter().map(set).collect::<Vec<_>>().join(", "));
        self.run(sqlx::query("BEGIN"), Access::Repeatable, limit).await?;
        let began = Instant::now();
        if let Err(error) = self.run(sqlx::query(&set), Access::Repeatable, limit).await {
            let is_cut_short = matches!(error, Error::Timeout) && began.elapsed() < limit.time / 2;
            self.leave(Lease::close);
            return Err(if is_cut_short { cut_short() } else { error });
        }
        let asked = subject.clone();
        self.subject = subject;
        let outcome = self.run(query, Access::Repeatable, limit).await;
        let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
        if self.is_reusable() {
            self.run(sqlx::query(end), Access::Repeatable, limit).await?;
        }
        if matches!(outcome, Err(Error::Timeout))
            && self.is_reusable()
            && self.has_altered_session().await == Some(true)
        {
            self.leave(Lease::close);
            return Err(cut_short());
        }
        match outcome {
            Err(error) if self.is_reusable() => Err(self.explain(asked, error, limit).await),
            outcome => outcome,
        }
    }
}

/// Something has left the session less time than it should have: it is worth another try.
fn cut_short() -> Error {
    Error::Deadlock(Arc::new(sqlx::Error::Protocol("the session was changed".to_owned())))
}
