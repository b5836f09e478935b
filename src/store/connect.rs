//! The first connection: whether the database is there, and whether what leads there will do.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    backoff::Backoff,
    pooler::{self, Unfit},
    session::ConnectOptions,
};

/// SQLSTATE of a wrong password, and of a user who is not there or may not come from here.
const INVALID_PASSWORD: &str = "28P01";
const INVALID_AUTHORIZATION: &str = "28000";

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL makes no sense to the driver.
    #[error("the database URL is not valid: {0}")]
    Url(String),
    /// The server said no, or nothing, until the time was up.
    #[error("cannot connect to {target}: {reason}")]
    Unreachable {
        /// Host, port and database.
        target: String,
        /// What the last attempt said.
        reason: String,
    },
    /// What leads to the database will not do.
    #[error("cannot use {target}: {reason}")]
    Unfit {
        /// Host, port and database.
        target: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// Waits until the database can be reached, for as long as `patience`, and looks at what leads there.
pub async fn connect(options: &ConnectOptions, patience: Duration) -> Result<(), ConnectError> {
    let started = Instant::now();
    let target = options.describe_target();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
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
        warn!(database = %target, %reason, "cannot connect yet, trying again");
        sleep(pause).await;
    }
    info!(database = %target, "connected");
    Ok(())
}

/// Whether the server does not let this user in, as it will not in a moment either.
fn is_refused(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == INVALID_PASSWORD || code == INVALID_AUTHORIZATION)
}

/// What the driver says, and what would be right where it says little.
fn explain(error: &sqlx::Error, options: &ConnectOptions) -> String {
    let text = error.to_string();
    if is_refused(error) {
        return text
            + " (user and password stand in the database URL, or in PGUSER and PGPASSWORD)";
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
    text
}
