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
const LIMIT: Duration = Duration::from_secs(1);

/// What a statement says in a session that takes no changes.
const READ_ONLY: &str = "25006";
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
        if is_symptom && !self.has_altered_session().await {
            // Behind a pooler it may have been another one.
            let is_known = |session: &Session| !session.read_only && session.process.is_some();
            let is_writable = self.lease.as_ref().is_some_and(|lease| is_known(lease.session()));
            let is_its_own = code == READ_ONLY && is_writable;
            return if is_its_own { Found::Writable } else { Found::Unknown };
        }
        self.busy = false;
        self.leave(Lease::close);
        Found::Altered
    }

    async fn has_altered_session(&mut self) -> bool {
        let Some(lease) = self.lease.as_mut() else { return false };
        let session = lease.session().clone();
        let sql = session::ask_state(&session);
        let asked = timeout(LIMIT, sqlx::query(&sql).fetch_one(&mut **lease)).await;
        match asked {
            Ok(Ok(row)) => row.try_get::<String, _>(0).is_ok_and(|state| *state != *session.state),
            // It does not answer as it should, and is not to be asked more.
            Ok(Err(_)) | Err(_) => true,
        }
    }
}
