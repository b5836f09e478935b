//! Sessions whose role was changed for good, as a trigger does by SET ROLE.

use std::time::Duration;

use sqlx::Row;
use tokio::time::timeout;

use super::{
    super::{
        pool::Lease,
        session::ROLE,
        verdict::{Cause, Failed},
    },
    Conn,
};

/// Time for a question that is answered at once.
const LIMIT: Duration = Duration::from_secs(1);

impl Conn {
    /// Closes the connection where a right was missing and the session has not the role with which it began: true
    /// then, as the statement is worth another try. Whoever gets the connection next would lack the right, too.
    pub(super) async fn close_if_altered(&mut self, failed: &Failed) -> bool {
        let is_forbidden = matches!(&failed.cause, Cause::Error(error)
            if error.as_database_error().and_then(sqlx::error::DatabaseError::code)
                .is_some_and(|code| code == "42501"));
        let Some(lease) = self.lease.as_mut().filter(|_| is_forbidden && !self.in_transaction)
        else {
            return false;
        };
        let began_as = lease.session().role.clone();
        let sql = format!("/* role */ SELECT {ROLE}");
        self.busy = true;
        let asked = timeout(LIMIT, sqlx::query(&sql).fetch_one(&mut **lease)).await;
        let Ok(Ok(row)) = asked else { return false };
        self.busy = false;
        let is_altered = row.try_get::<String, _>(0).is_ok_and(|role| role != began_as);
        if is_altered {
            self.leave(Lease::close);
        }
        is_altered
    }
}
