//! Sessions that were changed for good, as a trigger does by SET without LOCAL.

use std::time::Duration;

use sqlx::Row;
use tokio::time::timeout;

use super::{
    super::{
        failure::ends_session,
        pool::Lease,
        session::{self, Session},
        verdict::{Cause, Failed, Verdict},
    },
    Conn,
};

/// Time for a question that is answered at once.
const LIMIT: Duration = Duration::from_secs(2);

/// What a statement says in a session that takes no changes.
pub(super) const READ_ONLY: &str = "25006";
/// What a statement says that a changed session may be to blame for: another role, encoding or search path, another
/// way to read or write text, less time, or no changes.
const SYMPTOMS: [&str; 12] = [
    "42501", "22021", "22P05", "22P02", "22007", "22008", "57014", "25006", "3F000", "42883",
    "42P01", "42704",
];

/// What became of a session in which a statement failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was not as it was when it began, and is closed: the statement is worth another try. Whoever had got it next
    /// would have fared as badly, or worse without noticing.
    Altered,
    /// It takes changes, though the statement was told that it takes none: a trigger said so for its transaction.
    Writable,
    /// It does not say, and is given up on.
    Unanswered,
    /// Nothing is known of it.
    Unknown,
}

impl Conn {
    /// Closes the connection where the session was changed for good.
    pub(super) async fn close_if_altered(&mut self, failed: &Failed) -> Found {
        let Cause::Error(error) = &failed.cause else { return Found::Unknown };
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        let code = code.as_deref().unwrap_or_default();
        let is_symptom = SYMPTOMS.contains(&code) && !ends_session(error);
        if self.in_transaction || !(is_symptom || Verdict::of(error) == Verdict::Altered) {
            return Found::Unknown;
        }
        let is_altered = if is_symptom { self.has_altered_session().await } else { Some(true) };
        match is_altered {
            Some(true) => {}
            Some(false) => {
                // Behind a pooler it may have been another one.
                let is_known = |session: &Session| !session.read_only && !session.is_pooled;
                let is_writable =
                    self.lease.as_ref().is_some_and(|lease| is_known(lease.session()));
                let is_its_own = code == READ_ONLY && is_writable;
                return if is_its_own { Found::Writable } else { Found::Unknown };
            }
            None => {
                self.leave(Lease::give_up);
                return Found::Unanswered;
            }
        }
        self.busy = false;
        self.leave(Lease::close);
        Found::Altered
    }

    /// Nothing where it does not answer: then it is not to be used any more.
    pub(super) async fn has_altered_session(&mut self) -> Option<bool> {
        let was_busy = std::mem::replace(&mut self.busy, true);
        let lease = self.lease.as_mut()?;
        let session = lease.session().clone();
        let sql = session::ask_state(&session);
        let is_altered = match timeout(LIMIT, sqlx::query(&sql).fetch_one(&mut **lease)).await {
            Ok(Ok(row)) => row.try_get::<String, _>(0).is_ok_and(|state| *state != *session.state),
            // Not even that can be asked there.
            Ok(Err(sqlx::Error::Database(_))) => true,
            Ok(Err(_)) | Err(_) => return None,
        };
        self.busy = was_busy;
        Some(is_altered)
    }
}
