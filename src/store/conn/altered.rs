//! Sessions that were changed for good, as a trigger does by SET without LOCAL.

use std::time::Duration;

use sqlx::Row;
use tokio::time::timeout;

use super::{
    super::{
        pool::Lease,
        session,
        verdict::{Cause, Failed, Verdict},
    },
    Conn,
};

/// Time for a question that is answered at once.
const LIMIT: Duration = Duration::from_secs(1);

/// What a statement says that a changed session may be to blame for: another role, encoding or search path, another
/// way to read or write text, less time, or no changes.
const SYMPTOMS: [&str; 12] = [
    "42501", "22021", "22P05", "22P02", "22007", "22008", "57014", "25006", "3F000", "42883",
    "42P01", "42704",
];

impl Conn {
    /// Closes the connection where the session is not as it was when it began: true then, as the statement is worth
    /// another try. Whoever gets the connection next would fare as badly, or worse without noticing.
    pub(super) async fn close_if_altered(&mut self, failed: &Failed) -> bool {
        let Cause::Error(error) = &failed.cause else { return false };
        if self.in_transaction {
            return false;
        }
        let is_altered = Verdict::of(error) == Verdict::Altered
            || error
                .as_database_error()
                .and_then(sqlx::error::DatabaseError::code)
                .is_some_and(|code| SYMPTOMS.contains(&&*code))
                && self.has_altered_session().await;
        if is_altered {
            self.busy = false;
            self.leave(Lease::close);
        }
        is_altered
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
