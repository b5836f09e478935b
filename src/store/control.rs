//! A connection beside the pool: for the question whether the database answers, and for ending what
//! was given up on. It is in no line behind those who work.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Connection as _, Decode, Executor, PgConnection, Postgres, Type, postgres::PgArguments,
    query::QueryScalar,
};
use tokio::{
    sync::{Mutex, MutexGuard, Semaphore},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    backoff::Backoff,
    failure,
    session::{ConnectOptions, Opened, Process, Session, activity, unanswered},
};

/// Time for one question or command.
const LIMIT: Duration = Duration::from_secs(1);
/// Time in which a cancelled statement is expected to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Cancelled so often, a session is ended altogether.
const CANCELS: u32 = 3;
/// What a server that cannot be reached for so long still does is not known.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// What sessions wait for whose changes are to become durable; how these are spelled depends on the version.
const DURABILITY_WAITS: [&str; 3] = ["SyncRep", "WalSync", "WalWrite"];

/// Changes nothing, and waits for what every commit waits for.
pub(super) const COMMIT: &str =
    "SELECT pg_catalog.pg_logical_emit_message(true, 'pgmq_gateway', '')";

/// The connection, while it is kept.
pub(super) struct Control {
    options: ConnectOptions,
    kept: Mutex<Option<Opened>>,
    /// A commit that is tried, and not answered yet.
    trying: Arc<Semaphore>,
}

/// Whether a server that refuses to try a commit answers all the same.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    !failure::ends_session(error) && error.as_database_error().is_some()
}

/// What is done to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    None,
    Cancel,
    End,
}

/// What follows FROM for the session with the process and the beginning that are given.
fn one_session() -> String {
    format!("{} WHERE a.backend_start = $2::text::timestamptz", activity("$1::pg_catalog.int4"))
}

impl Control {
    pub(super) fn new(options: &ConnectOptions) -> Self {
        Self {
            options: options.clone(),
            kept: Mutex::new(None),
            trying: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// The connection, if one is kept. Take it out while it is in use: what fails or is cut short
    /// leaves none behind.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.kept.lock().await
    }

    /// Gives the connection up, unless it is in use: somebody needs it more.
    pub(super) fn yield_connection(&self) {
        if let Ok(mut kept) = self.kept.try_lock()
            && let Some(opened) = kept.take()
        {
            tokio::spawn(async move { timeout(LIMIT, opened.conn.close()).await });
        }
    }

    pub(super) async fn close(&self) {
        if let Ok(mut kept) = timeout(LIMIT, self.kept.lock()).await
            && let Some(opened) = kept.take()
        {
            let _ = timeout(LIMIT, opened.conn.close()).await;
        }
    }

    /// Whether a commit gets through: it waits for what every change waits for. Not known where there
    /// is no connection to try it on.
    pub(super) async fn can_commit(self: &Arc<Self>) -> Option<bool> {
        // One at a time, until its session is gone.
        let Ok(trying) = Arc::clone(&self.trying).try_acquire_owned() else { return Some(false) };
        let mut opened = match self.options.open().await {
            Ok(opened) => opened,
            Err(error) => return if failure::is_full(&error) { None } else { Some(false) },
        };
        let answered = timeout(LIMIT, opened.conn.execute(COMMIT)).await;
        let control = Arc::clone(self);
        let Ok(answer) = answered else {
            tokio::spawn(async move {
                control.end(opened.conn, &opened.session).await;
                drop(trying);
            });
            return Some(false);
        };
        if answer.as_ref().is_err_and(|error| error.as_database_error().is_none()) {
            tokio::spawn(async move {
                drop(opened.conn);
                control.see_off(&opened.session).await;
                drop(trying);
            });
            return Some(false);
        }
        let _ = timeout(LIMIT, opened.conn.close()).await;
        Some(answer.err().is_none_or(|error| is_answer(&error)))
    }

    /// Has a statement cancelled that was given up on, and comes back when its session is gone. A
    /// statement that waits for a standby to confirm its commit ends by nothing else.
    pub(super) async fn end(&self, mut conn: PgConnection, session: &Session) {
        // Behind a transaction pooler the process is somebody else's by now.
        let Some(Process(process, began)) = session.process.as_deref() else { return };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let (mut signals, mut reached) = (0, Instant::now());
        loop {
            let signal = if signals >= CANCELS { Signal::End } else { Signal::Cancel };
            match self.signal(*process, began, signal).await {
                Ok(true) => (signals, reached) = (signals + 1, Instant::now()),
                Ok(false) => return,
                Err(error) if failure::is_full(&error) => {}
                Err(_) if reached.elapsed() < UNREACHABLE => {}
                Err(error) => return debug!(%error, "cannot end a statement that was given up on"),
            }
            if let Ok(Ok(())) = timeout(LAST_WORDS, conn.ping()).await {
                let _ = timeout(LIMIT, conn.close()).await;
                return;
            }
            sleep(backoff.pause()).await;
        }
    }

    /// The same where the way to it broke, and comes back at once where it has noticed; what it is about may well get
    /// done in a moment.
    pub(super) async fn see_off(&self, session: &Session) {
        let Some(Process(process, began)) = session.process.as_deref() else { return };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        let (broke, mut reached, mut signals) = (Instant::now(), Instant::now(), 0);
        loop {
            let signal = match signals {
                _ if broke.elapsed() < LAST_WORDS => Signal::None,
                ..CANCELS => Signal::Cancel,
                _ => Signal::End,
            };
            match self.signal(*process, began, signal).await {
                Ok(true) => {
                    reached = Instant::now();
                    signals += u32::from(signal != Signal::None);
                }
                Ok(false) => return,
                Err(error) if failure::is_full(&error) => {}
                Err(_) if reached.elapsed() < UNREACHABLE => {}
                Err(error) => return debug!(%error, "cannot end a session to which the way broke"),
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Whether a session does nothing, or is gone. Behind a transaction pooler that is not known.
    pub(super) async fn is_idle(&self, session: &Session) -> Result<bool, sqlx::Error> {
        let Some(Process(process, began)) = session.process.as_deref() else { return Ok(false) };
        let sql = format!("/* is_idle */ SELECT a.state FROM {}", one_session());
        let query = sqlx::query_scalar(&sql);
        let state = self.ask(query.bind(process).bind(began)).await?;
        Ok(state.is_none_or(|state: String| state.starts_with("idle")))
    }

    /// Whether a session has done what it was to do, and waits until that is durable, on a disk or a standby. Not where
    /// that cannot be told: without a process, or without an answer in time.
    pub(super) async fn is_committing(&self, process: &Process) -> bool {
        let sql = format!("/* is_committing */ SELECT a.wait_event FROM {}", one_session());
        let query = sqlx::query_scalar(&sql).bind(process.0).bind(&process.1);
        let answer = timeout(LIMIT, self.ask::<Option<String>>(query)).await;
        let Ok(Ok(Some(Some(wait_event)))) = answer else { return false };
        DURABILITY_WAITS.iter().any(|wait| wait_event.eq_ignore_ascii_case(wait))
    }

    /// Cancels what a session does, if that can be done. Where commits wait for a standby it is left alone: one
    /// that waits would be told to be done without it.
    pub(super) async fn cancel(&self, session: &Session) {
        let Some(Process(process, began)) = session.process.as_deref() else { return };
        let sql = format!(
            "/* cancel */ SELECT pg_catalog.pg_cancel_backend(a.pid) FROM {} \
             AND pg_catalog.current_setting('synchronous_standby_names') = ''",
            one_session()
        );
        let query = sqlx::query_scalar(&sql);
        let cancelled: Result<Option<bool>, _> = self.ask(query.bind(process).bind(began)).await;
        if let Err(error) = cancelled {
            debug!(%error, "cannot cancel a statement that takes long");
        }
    }

    /// Cancels what a session does, or ends it, or just looks; false if there is no such session any more.
    async fn signal(&self, process: i32, began: &str, signal: Signal) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "/* cancel */ SELECT CASE $3 WHEN 'end' THEN pg_catalog.pg_terminate_backend(a.pid) \
             WHEN 'cancel' THEN pg_catalog.pg_cancel_backend(a.pid) ELSE true END FROM {}",
            one_session()
        );
        let signal = match signal {
            Signal::None => "none",
            Signal::Cancel => "cancel",
            Signal::End => "end",
        };
        let query = sqlx::query_scalar(&sql).bind(process).bind(began).bind(signal);
        let done: Option<bool> = self.ask(query).await?;
        Ok(done.is_some())
    }

    async fn ask<T>(
        &self,
        query: QueryScalar<'_, Postgres, T, PgArguments>,
    ) -> Result<Option<T>, sqlx::Error>
    where
        T: Send + Unpin + for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        let mut kept = self.kept.lock().await;
        let mut opened = match kept.take() {
            Some(opened) => opened,
            None => self.options.open().await?,
        };
        let answer = timeout(LIMIT, query.fetch_optional(&mut opened.conn)).await;
        let answer = answer.unwrap_or_else(|_| Err(unanswered()))?;
        *kept = Some(opened);
        Ok(answer)
    }
}
