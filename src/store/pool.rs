//! Connecting, with every wait bounded.

use std::{
    io::ErrorKind,
    str::FromStr,
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::{sleep, timeout};
use tracing::{info, log::LevelFilter, warn};

/// A connection that was idle for so long is closed: a crowd of them is of no use to those who wait.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// A connection that was idle for longer is tried before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

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
}

/// Connection options from a URL. `statement_timeout` is set on the server too, unless a
/// transaction pooler stands in between, which would refuse it.
pub fn options(
    url: &str,
    statement_timeout: Duration,
    transaction_pooler: bool,
) -> Result<PgConnectOptions, ConnectError> {
    let options = PgConnectOptions::from_str(url).map_err(|e| ConnectError::Url(e.to_string()))?;
    Ok(tune(options, statement_timeout, transaction_pooler))
}

/// The settings that every connection of the gateway's has.
fn tune(
    options: PgConnectOptions,
    statement_timeout: Duration,
    transaction_pooler: bool,
) -> PgConnectOptions {
    let options = options
        .application_name("pgmq-gateway")
        .extra_float_digits(None)
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Debug, Duration::from_secs(1));
    if transaction_pooler {
        return options;
    }
    options.options([("statement_timeout", statement_timeout.as_millis().to_string())])
}

/// Host, port and database, and nothing secret.
pub fn describe_target(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or(options.get_username());
    match options.get_socket() {
        Some(socket) => format!("database {database} at {}", socket.display()),
        None => format!("database {database} at {}:{}", options.get_host(), options.get_port()),
    }
}

/// Makes the shared pool once a connection could be made, trying for as long as `patience`.
pub async fn connect(
    options: &PgConnectOptions,
    max_connections: u32,
    acquire_timeout: Duration,
    patience: Duration,
) -> Result<PgPool, ConnectError> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(100);
    loop {
        let attempt = async {
            let connection = options.connect().await?;
            connection.close().await
        };
        let limit = acquire_timeout.max(Duration::from_secs(5));
        let reason = match timeout(limit, attempt).await {
            Ok(Ok(())) => break,
            Ok(Err(error)) => explain(&error, options),
            Err(_) => "no answer".to_owned(),
        };
        let target = describe_target(options);
        if started.elapsed() + pause > patience {
            return Err(ConnectError::Unreachable { target, reason });
        }
        warn!(%target, %reason, "cannot connect yet, trying again");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
    info!(target_database = %describe_target(options), "connected");
    Ok(pool(options, max_connections, acquire_timeout))
}

/// What the driver says, and what would be right where it says little.
fn explain(error: &sqlx::Error, options: &PgConnectOptions) -> String {
    let text = error.to_string();
    if text.contains("invalid peer certificate") {
        return text
            + " (sslrootcert in the database URL names the authority that must have signed it, and \
               with sslmode=verify-full the URL's host must be in it)";
    }
    let missing = matches!(error, sqlx::Error::Io(io) if io.kind() == ErrorKind::NotFound);
    let by_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
    if missing && !by_socket {
        return text + " (it is sslrootcert, sslcert or sslkey in the database URL that names one)";
    }
    text
}

/// A pool of its own for statements that wait, so that those who wait never starve those who work.
pub fn long_poll_pool(
    options: &PgConnectOptions,
    max_connections: u32,
    acquire_timeout: Duration,
) -> PgPool {
    pool(options, max_connections, acquire_timeout)
}

fn pool(options: &PgConnectOptions, max_connections: u32, acquire_timeout: Duration) -> PgPool {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(acquire_timeout)
        .idle_timeout(IDLE_LIMIT)
        // Trying every connection would be a round trip for every request; a busy one is known
        // to be good.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options.clone())
}
