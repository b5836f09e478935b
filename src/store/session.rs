//! Opening a session: what it must be like for the gateway's SQL to mean what it says, and what
//! there is to know of it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Once},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection, Executor, PgConnection, PgPool, Row,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{log::LevelFilter, warn};
use url::Url;

use super::{backoff::Backoff, connect_error::ConnectError, failure};

/// Time for one connection to come about.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Attempts to reach a server that takes changes, where a read-only one answers first.
const ATTEMPTS: u32 = 4;
/// Time in which somebody may let go of a connection where there are no more.
const PATIENCE: Duration = Duration::from_secs(3);

/// What every session has, whatever the defaults of the server, the database or the role are: its
/// own statements and PGMQ's functions mean something else, or fail, or come to an end otherwise.
///
/// What is an operator's to decide is not here: `default_transaction_read_only` (a switch-over),
/// `synchronous_commit`, `row_security`, and whatever the planner goes by.
const PINNED: [(&str, &str); 22] = [
    // No schema of anybody's stands between a name and what it means.
    ("search_path", "pg_catalog"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("gin_fuzzy_search_limit", "0"),
    ("exit_on_error", "off"),
    // Where these are asked for, what PGMQ's functions and other people's triggers do is an error, or in the log.
    ("plpgsql.extra_errors", "none"),
    ("plpgsql.extra_warnings", "none"),
    // How values read as text.
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    // What triggers say may have messages in it, and would be logged here.
    ("client_min_messages", "error"),
    // The statement timeout is the limit; sessions are kept for as long as there is use for them.
    ("lock_timeout", "0"),
    ("transaction_timeout", "0"),
    ("idle_session_timeout", "0"),
    // A gateway that is gone, or frozen, holds nothing for long.
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// A transaction that is left alone for so long is the work of a gateway that is frozen.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);
/// How often a server at work looks whether its client is still there.
const CLIENT_CHECK: Duration = Duration::from_secs(5);

/// Bytes that a session takes and gives back when it begins. The GNU C library gives free memory above twice the
/// largest such piece back to the system, and above 128 KiB as long as there was none: a session would take and
/// give back what a statement needs each time, at a tenth and more of its work.
const KEPT_BYTES: usize = 2_000_000;

/// How to reach a database, and what its sessions are like.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    driver: PgConnectOptions,
    statement_timeout: Duration,
    transaction_pooler: bool,
    /// It was said that sessions cannot be told apart.
    told: Arc<Once>,
}

/// A process of the server's, and when it began: its number may be another's later.
#[derive(Debug)]
pub struct Process(pub(super) i32, pub(super) String);

/// What there is to know of a session that was opened.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// Nothing where that is not to be known.
    pub(super) process: Option<Arc<Process>>,
    /// A pooler gives it to somebody else after each transaction.
    pub(super) is_pooled: bool,
    /// Stands for one run of one server.
    pub(super) server: u64,
    /// Whether it takes no changes: a standby, or `default_transaction_read_only`.
    pub(super) read_only: bool,
    /// What it is like; other statements than its own would find it otherwise.
    pub(super) state: Arc<str>,
    pub(super) opened: Instant,
}

/// A connection with its session.
pub(super) struct Opened {
    pub(super) conn: PgConnection,
    pub(super) session: Session,
}

impl ConnectOptions {
    /// From a URL. Where a transaction pooler stands in between, nothing is set for a session.
    pub fn new(
        url: &str,
        statement_timeout: Duration,
        transaction_pooler: bool,
    ) -> Result<Self, ConnectError> {
        let url = without_attributes(url);
        let driver =
            PgConnectOptions::from_str(&url).map_err(|e| ConnectError::Url(e.to_string()))?;
        let name = driver.get_application_name().unwrap_or("pgmq-gateway").to_owned();
        let driver = driver
            .application_name(&name)
            .extra_float_digits(None)
            .log_statements(LevelFilter::Trace)
            .log_slow_statements(LevelFilter::Debug, Duration::from_secs(1));
        Ok(Self { driver, statement_timeout, transaction_pooler, told: Arc::new(Once::new()) })
    }

    /// Host, port and database, and nothing secret.
    pub fn describe_target(&self) -> String {
        let database = self.driver.get_database().unwrap_or(self.driver.get_username());
        let (host, port) = (self.driver.get_host(), self.driver.get_port());
        let place = self.socket().map(|socket| socket.display().to_string());
        format!("database {database} at {}", place.unwrap_or_else(|| format!("{host}:{port}")))
    }

    /// Whether a pooler gives a session to somebody else after each transaction.
    pub(super) fn transaction_pooler(&self) -> bool {
        self.transaction_pooler
    }

    /// The directory of the socket, if it is no network.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        let host = self.driver.get_host();
        let by_host = || host.starts_with('/').then(|| PathBuf::from(host));
        self.driver.get_socket().cloned().or_else(by_host)
    }

    /// A connection for short work. Where the server has no more, somebody may let go of one soon.
    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let started = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(500));
        loop {
            match self.open().await {
                Ok(opened) => return Ok(opened.conn),
                Err(error) if failure::is_full(&error) && started.elapsed() < PATIENCE => {
                    sleep(backoff.pause()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A connection as it is before anything is set.
    pub(super) async fn connect_plainly(&self) -> Result<PgConnection, sqlx::Error> {
        match timeout(CONNECT_LIMIT, self.driver.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(unanswered()),
        }
    }

    /// Opens a session. Where several servers stand behind one address, one that takes changes is
    /// looked for a few times.
    pub(super) async fn open_writable(&self) -> Result<Opened, sqlx::Error> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
        for _ in 1..ATTEMPTS {
            let opened = self.open().await?;
            if !opened.session.read_only {
                return Ok(opened);
            }
            drop(timeout(CONNECT_LIMIT, opened.conn.close()).await);
            sleep(backoff.pause()).await;
        }
        self.open().await
    }

    /// Opens a session.
    pub(super) async fn open(&self) -> Result<Opened, sqlx::Error> {
        let open = async {
            let mut conn = self.driver.connect().await?;
            let session = self.begin_session(&mut conn).await?;
            Ok(Opened { conn, session })
        };
        timeout(CONNECT_LIMIT, open).await.unwrap_or_else(|_| Err(unanswered()))
    }

    /// A pool for those who take no connection.
    pub(super) fn single_connection_pool(&self) -> PgPool {
        let options = self.clone();
        PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_LIMIT)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |conn, _| {
                let options = options.clone();
                Box::pin(async move { options.begin_session(conn).await.map(drop) })
            })
            .connect_lazy_with(self.driver.clone())
    }

    /// Pins what must be as it must, and asks what there is to know, in one round trip.
    async fn begin_session(&self, conn: &mut PgConnection) -> Result<Session, sqlx::Error> {
        let is_pooled = self.transaction_pooler;
        let rows = if is_pooled {
            conn.fetch_all(&*ask(true)).await?
        } else {
            self.pin_and_ask(conn).await?
        };
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let process = rows.get(1).map(process).transpose()?.flatten();
        let server: String = row.try_get(0)?;
        let mut hasher = DefaultHasher::new();
        // Behind a pooler each transaction has a server's process of its own, and may have a server.
        (!is_pooled).then_some(server).hash(&mut hasher);
        let (standby, read_only): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
        let state: String = row.try_get(3)?;
        Ok(Session {
            process,
            is_pooled,
            server: hasher.finish(),
            read_only: standby || read_only,
            state: state.into(),
            opened: Instant::now(),
        })
    }

    /// The same where the session stays ours; the second row is about its process. The role may not see processes,
    /// which is no reason to do without the rest.
    async fn pin_and_ask(&self, conn: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        let (pin, own) = (self.pin(), own_process());
        match conn.fetch_all(&*format!("{pin}; {own}")).await {
            Err(error) if lacks_right(&error) => {
                let rows = conn.fetch_all(&*pin).await?;
                self.told.call_once(|| {
                    warn!(
                        %error,
                        "what is given up on cannot be cancelled at the server, as its process cannot be told: GRANT \
                         EXECUTE ON FUNCTION pg_catalog.pg_stat_get_activity(integer) to the gateway's role"
                    );
                });
                Ok(rows)
            }
            outcome => outcome,
        }
    }

    /// Everything here is qualified: the search path is not known yet. The default for a statement's time may be too
    /// little for this one.
    fn pin(&self) -> String {
        let ms = |time: Duration| time.as_millis().to_string();
        let own = [
            ("statement_timeout", ms(self.statement_timeout)),
            ("idle_in_transaction_session_timeout", ms(IDLE_IN_TRANSACTION)),
        ];
        let pinned = PINNED.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let rows: Vec<String> =
            pinned.chain(own).map(|(name, value)| format!("('{name}', '{value}')")).collect();
        // What an older server does not have is left alone. Not every system can tell whether a
        // client is still there.
        format!(
            "SET statement_timeout = 0; \
             WITH pinned AS MATERIALIZED ( \
                 SELECT pg_catalog.set_config(s.name, s.value, false) \
                 FROM (VALUES {}) s (name, value) \
                 WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL \
                 UNION ALL \
                 SELECT pg_catalog.set_config('client_connection_check_interval', '{}', false) \
                 WHERE pg_catalog.version() OPERATOR(pg_catalog.~) 'linux' \
                   AND pg_catalog.current_setting('client_connection_check_interval', true) \
                       IS NOT NULL \
                 UNION ALL \
                 SELECT pg_catalog.length(pg_catalog.repeat('x', {KEPT_BYTES}))::pg_catalog.text) \
             {} FROM (SELECT pg_catalog.count(*) FROM pinned) p",
            rows.join(", "),
            ms(CLIENT_CHECK),
            ask(false),
        )
    }
}

/// As whom a session acts.
const ROLE: &str = "current_user, session_user";

/// What of a session its own statements count on, besides what every function of ours pins for itself: the session
/// keeps it under [`KEPT_AS`], and functions go by that (`sessions.sql`), which lists the same.
const KEPT: [&str; 12] = [
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
    "bytea_output",
    "extra_float_digits",
    "standard_conforming_strings",
    "default_transaction_read_only",
    "default_transaction_isolation",
    "session_replication_role",
    "synchronous_commit",
    "row_security",
];
/// Another list has another name: gateways of several versions may work on one database.
const KEPT_AS: &str = "pgmq_gateway.session_1";
/// What functions pin, and so only what is asked beside them meets; and the time for a statement, which the gateway
/// sets for some.
const KEPT_BESIDE: [&str; 3] = ["search_path", "lock_timeout", "statement_timeout"];
/// An expression: whether the server takes no changes.
const IS_STANDBY: &str = "pg_catalog.pg_is_in_recovery()";

/// An expression: what a session is like.
fn state() -> String {
    format!("pg_catalog.concat_ws(' ', {ROLE}, {})", settings(&KEPT))
}

fn settings(names: &[&str]) -> String {
    let setting = |name: &&str| format!("pg_catalog.current_setting('{name}')");
    names.iter().map(setting).collect::<Vec<_>>().join(", ")
}

/// Asks what a session is like, to be compared with [`Session::state`].
pub(super) fn ask_state(session: &Session) -> String {
    format!("/* session */ SELECT {}", whole_state(session.is_pooled))
}

/// Behind a pooler each statement may have another session.
fn whole_state(is_pooled: bool) -> String {
    if is_pooled {
        return format!("pg_catalog.concat_ws(' ', {ROLE}, {IS_STANDBY})");
    }
    format!("pg_catalog.concat_ws(' ', {}, {}, {IS_STANDBY})", state(), settings(&KEPT_BESIDE))
}

/// What there is to know of a session, besides its process.
fn ask(is_pooled: bool) -> String {
    let note = format!(", pg_catalog.set_config('{KEPT_AS}', {}, false)", state());
    format!(
        "SELECT pg_catalog.pg_postmaster_start_time()::pg_catalog.text, pg_catalog.pg_is_in_recovery(), \
         pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool, {} {}",
        whole_state(is_pooled),
        if is_pooled { "" } else { &note },
    )
}

/// A FROM item `a`: the session that is the server's process of this number, if it is there. It is looked at by the role
/// that has logged in, until the statement ends: the one that it acts as may not see, nor end, what is not its own.
pub(super) fn activity(process: &str) -> String {
    format!(
        "(SELECT pg_catalog.set_config('role', 'none', true)) acts (as_itself) CROSS JOIN LATERAL \
         pg_catalog.pg_stat_get_activity(CASE WHEN acts.as_itself IS NOT NULL THEN {process} END) a"
    )
}

/// Asks for the process, which is known by its number and its beginning.
fn own_process() -> String {
    let own = activity("pg_catalog.pg_backend_pid()");
    format!("SELECT a.pid, a.backend_start::pg_catalog.text FROM {own}")
}

fn process(row: &PgRow) -> Result<Option<Arc<Process>>, sqlx::Error> {
    let (number, began): (i32, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(began.map(|began| Arc::new(Process(number, began))))
}

fn lacks_right(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("42501"))
}

/// A URL without the wish for a server that takes changes: one is looked for in any case, and the
/// driver does not know of it.
fn without_attributes(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return url.to_owned() };
    let is_other = |name: &str| name != "target_session_attrs";
    let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
    if pairs.iter().all(|(name, _)| is_other(name)) {
        return url.to_owned();
    }
    let others = pairs.iter().filter(|(name, _)| is_other(name));
    parsed.query_pairs_mut().clear().extend_pairs(others);
    parsed.into()
}

/// As if the connection had timed out.
pub(super) fn unanswered() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer"))
}
