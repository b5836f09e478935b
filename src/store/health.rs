//! Whether the database answers, asked beside the pool so that the question never stands in line
//! behind it, and once for everybody so that it is in no line of its own.

use std::{sync::Arc, time::Duration};

use sqlx::{Executor, PgConnection, Row};
use tokio::time::timeout;

use super::{
    control,
    failure::{Failure, Reason},
    pool::Pool,
    schema,
    session::{Opened, unanswered},
    shared::Shared,
};

/// Time for a question on the connection that is kept.
const ASK_LIMIT: Duration = Duration::from_secs(1);
/// Time for one on a connection that is yet to be made.
const FRESH_LIMIT: Duration = Duration::from_secs(3);
/// Time for which what was found is taken to be so.
const FRESH: Duration = Duration::from_millis(250);
/// A session that is older does not know the defaults that new ones get.
const KEPT_LIMIT: Duration = Duration::from_secs(5);
/// Time in which something gets done where all is well.
const STALLED: Duration = Duration::from_secs(5);

/// What the last look at the database found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// It answers, PGMQ is there and our schema is current.
    Ready,
    /// It answers, but PGMQ or our schema is missing or old.
    SchemaMissing,
    /// It answers, but takes no changes: a standby, or it was told so.
    ReadOnly,
    /// It answers, but nothing gets done: what runs waits for locks, or commits for a standby.
    Stalled,
    /// It does not answer.
    Down,
}

/// The health check.
#[derive(Debug)]
pub struct Health {
    probe: Arc<Probe>,
    found: Shared<HealthState>,
}

#[derive(Debug)]
struct Probe {
    pool: Pool,
}

impl Health {
    /// A check that will connect when it is first asked, and counts in what the pool gets done.
    pub fn new(pool: Pool) -> Self {
        Self { probe: Arc::new(Probe { pool }), found: Shared::new(FRESH) }
    }

    /// Asks the database, unless somebody else does or just did; answers within some seconds,
    /// whatever happens.
    pub async fn check(&self) -> HealthState {
        let look = || {
            let probe = Arc::clone(&self.probe);
            async move { probe.check().await }
        };
        self.found.get(look).await.unwrap_or(HealthState::Down)
    }
}

impl Probe {
    async fn check(&self) -> HealthState {
        let state = self.ask().await;
        let progress = self.pool.progress();
        if state != HealthState::Ready || !progress.is_doubtful() {
            return state;
        }
        // Once nobody asks for anything any more, only trying tells whether it would get done.
        let commits = match self.pool.control().can_commit().await {
            Some(commits) => commits,
            None => progress.is_cleared() || self.can_commit_in_pool().await,
        };
        if !commits || (self.pool.is_exhausted() && progress.is_stalled(STALLED)) {
            return HealthState::Stalled;
        }
        progress.trust();
        HealthState::Ready
    }

    /// The server has no more connections: whether a commit gets through on one that there is.
    async fn can_commit_in_pool(&self) -> bool {
        let Ok(Ok(mut lease)) = timeout(ASK_LIMIT, self.pool.acquire()).await else { return false };
        match timeout(ASK_LIMIT, lease.execute(control::COMMIT)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) if control::is_answer(&error) => true,
            Ok(Err(_)) => {
                lease.lose_all();
                false
            }
            Err(_) => {
                lease.give_up();
                false
            }
        }
    }

    async fn ask(&self) -> HealthState {
        let control = self.pool.control();
        let Ok(mut kept) = timeout(FRESH_LIMIT, control.lock()).await else {
            return HealthState::Down;
        };
        let mut old = None;
        if let Some(mut opened) = kept.take() {
            match timeout(ASK_LIMIT, look(&mut opened.conn)).await {
                Ok(Ok(HealthState::ReadOnly) | Err(_)) | Err(_) => {}
                Ok(Ok(state)) => old = Some((opened, state)),
            }
        }
        if let Some((opened, state)) = old.take_if(|(opened, _)| self.is_current(opened)) {
            *kept = Some(opened);
            return state;
        }
        match self.ask_anew().await {
            Ok((opened, state)) => {
                *kept = Some(opened);
                state
            }
            Err(failure) => match (old, failure.reason) {
                // No other connection is to be had, but the one that there is answers.
                (Some((opened, state)), _) if !self.pool.has_moved_from(&opened.session) => {
                    *kept = Some(opened);
                    state
                }
                (_, Reason::Full | Reason::Local) => {
                    drop(kept);
                    self.ask_through_pool().await
                }
                _ => HealthState::Down,
            },
        }
    }

    fn is_current(&self, opened: &Opened) -> bool {
        opened.session.opened.elapsed() < KEPT_LIMIT && !self.pool.has_moved_from(&opened.session)
    }

    async fn ask_anew(&self) -> Result<(Opened, HealthState), Failure> {
        let ask = async {
            let mut opened = self.pool.control().options().open_writable().await?;
            let state = look(&mut opened.conn).await?;
            Ok((opened, state))
        };
        let asked = timeout(FRESH_LIMIT, ask).await.unwrap_or_else(|_| Err(unanswered()));
        let (opened, state) = asked.map_err(Failure::new)?;
        self.pool.observe(&opened.session);
        Ok((opened, state))
    }

    async fn ask_through_pool(&self) -> HealthState {
        let Ok(Ok(mut lease)) = timeout(FRESH_LIMIT, self.pool.acquire()).await else {
            return HealthState::Down;
        };
        match timeout(ASK_LIMIT, look(&mut lease)).await {
            Ok(Ok(state)) => state,
            Ok(Err(_)) => {
                lease.discard();
                HealthState::Down
            }
            Err(_) => {
                lease.give_up();
                HealthState::Down
            }
        }
    }
}

async fn look(conn: &mut PgConnection) -> Result<HealthState, sqlx::Error> {
    let question = sqlx::query(schema::HEALTH);
    let question = question.bind(schema::latest_version()).bind(schema::revision());
    let row = match question.fetch_one(conn).await {
        Err(sqlx::Error::Database(error)) if schema::is_missing(&*error) => {
            return Ok(HealthState::SchemaMissing);
        }
        asked => asked?,
    };
    let (current, read_only): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    Ok(match (current, read_only) {
        (_, true) => HealthState::ReadOnly,
        (false, _) => HealthState::SchemaMissing,
        (true, false) => HealthState::Ready,
    })
}
