//! Why no connection came about: whose fault it is, and whether trying again helps.

use std::{fs::File, io, sync::Arc};

use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// What kept a connection from coming about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// This process or this machine has run out of something.
    Local,
    /// The server gives no more of them.
    Full,
    /// Only a server that takes no changes answers.
    ReadOnly,
    /// The server is away, or starting.
    Away,
    /// The server refuses this user, password or database.
    Refused,
}

/// A connection that did not come about.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) error: Option<Arc<sqlx::Error>>,
}

impl Failure {
    pub(super) fn new(error: sqlx::Error) -> Self {
        let reason = match &error {
            error if is_full(error) => Reason::Full,
            sqlx::Error::Database(db) => match db.code().as_deref() {
                Some("57P01" | "57P02" | "57P03") => Reason::Away,
                Some(code) if code.starts_with("08") || code.starts_with('5') => Reason::Away,
                _ => Reason::Refused,
            },
            _ if lacks_descriptors(&error) => Reason::Local,
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Reason::Away
            }
            _ => Reason::Refused,
        };
        Self { reason, error: Some(Arc::new(error)) }
    }

    pub(super) const fn read_only() -> Self {
        Self { reason: Reason::ReadOnly, error: None }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.error {
            Some(error) => error.fmt(f),
            None => f.write_str("it takes no changes"),
        }
    }
}

/// Whether the server gives no more connections: to anybody, to this role or to this database.
pub(super) fn is_full(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    // The last is what PgBouncer says when it has no more.
    error.code().is_some_and(|code| code == "53300")
        || error.message().starts_with("no more connections allowed")
}

/// Whether an error came with the end of the session.
pub(super) fn ends_session(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|e| matches!(e.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// It was raised by what a statement set off, so that the session has undone the statement and goes on.
pub(super) fn is_inside(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| error.r#where().is_some_and(|place| !place.is_empty()))
}

/// Whether the process may open no more files or sockets, or the machine has none left. Looking a
/// name up fails without saying that this is why.
fn lacks_descriptors(error: &sqlx::Error) -> bool {
    const EMFILE: i32 = nix::errno::Errno::EMFILE as i32;
    const ENFILE: i32 = nix::errno::Errno::ENFILE as i32;
    const ENOBUFS: i32 = nix::errno::Errno::ENOBUFS as i32;
    const EADDRNOTAVAIL: i32 = nix::errno::Errno::EADDRNOTAVAIL as i32;
    let is_local = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | EADDRNOTAVAIL))
    };
    match error {
        sqlx::Error::Io(error) if is_local(error) => true,
        sqlx::Error::Io(_) => File::open("/dev/null").is_err_and(|error| is_local(&error)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn whose_fault_it_is() {
        let reason =
            |code: i32| Failure::new(sqlx::Error::Io(io::Error::from_raw_os_error(code))).reason;
        for own in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::EADDRNOTAVAIL] {
            assert_eq!(reason(own as i32), Reason::Local, "{own}");
        }
        for away in [Errno::ECONNREFUSED, Errno::ECONNRESET, Errno::EHOSTUNREACH, Errno::ETIMEDOUT]
        {
            assert_eq!(reason(away as i32), Reason::Away, "{away}");
        }
        let configuration = sqlx::Error::Configuration("nonsense".into());
        assert_eq!(Failure::new(configuration).reason, Reason::Refused);
    }
}
