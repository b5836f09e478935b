//! The first connection: whether the database is there, and whether what leads there will do.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    connect_error::ConnectError,
    pooler::{self, Unfit},
    session::ConnectOptions,
};

/// SQLSTATE of a wrong password, and of a user who is not there or may not come from here.
const INVALID_PASSWORD: &str = "28P01";
const INVALID_AUTHORIZATION: &str = "28000";
/// SQLSTATE of a database that is not there.
const INVALID_CATALOG_NAME: &str = "3D000";

/// Waits until the database can be reached, for as long as `patience`, and looks at what leads there.
pub async fn connect(options: &ConnectOptions, patience: Duration) -> Result<(), ConnectError> {
    let started = Instant::now();
    let target = options.describe_target();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    let mut told = String::new();
    loop {
        let error = match pooler::inspect(options).await {
            Ok(()) => break,
            Err(Unfit::Refused(reason)) => return Err(ConnectError::Unfit { target, reason }),
            Err(Unfit::Unreachable(error)) => error,
        };
        let (reason, pause) = (explain(&error, options), backoff.pause());
        if is_refused(&error) || started.elapsed() + pause > patience {
            return Err(ConnectError::Unreachable { target, reason });
        }
        // Each reason is told once, however often it is met.
        if reason != told {
            let for_seconds = patience.saturating_sub(started.elapsed()).as_secs();
            warn!(database = %target, %reason, for_seconds, "cannot connect yet, trying again");
            told = reason;
        }
        sleep(pause).await;
    }
    info!(database = %target, "connected");
    Ok(())
}

/// Whether the server does not let this user in, as it will not in a moment either.
fn is_refused(error: &sqlx::Error) -> bool {
    has_code(error, &[INVALID_PASSWORD, INVALID_AUTHORIZATION])
}

fn has_code(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| codes.contains(&&*code))
}

/// What the driver says, and what would be right where it says little.
fn explain(error: &sqlx::Error, options: &ConnectOptions) -> String {
    let text = error.to_string();
    if is_refused(error) {
        return text
            + " (user and password stand in the database URL, or in PGUSER and PGPASSWORD)";
    }
    if has_code(error, &[INVALID_CATALOG_NAME]) {
        return text
            + " (its name stands behind the last `/` of the database URL; `createdb` makes one)";
    }
    if text.contains("invalid peer certificate") {
        return text
            + " (sslrootcert in the database URL names the authority that must have signed it, and \
               with sslmode=verify-full the URL's host must be in it)";
    }
    if text.contains("unsupported startup parameter") {
        return text
            + " (a pooler says so: take `options` out of the database URL and PGOPTIONS out of the \
               environment, or have it listed in the pooler's ignore_startup_parameters)";
    }
    let missing = matches!(error, sqlx::Error::Io(io) if io.kind() == ErrorKind::NotFound);
    if missing && options.socket().is_none() {
        return text + " (it is sslrootcert, sslcert or sslkey in the database URL that names one)";
    }
    match error {
        sqlx::Error::Io(io) if io.kind() == ErrorKind::ConnectionRefused => {
            text + " (nothing listens there: does PostgreSQL run, and on this host and port?)"
        }
        _ => text,
    }
}
