//! Whether what leads to the database keeps what it must keep: tried out, as it does not tell.
//!
//! Two connections take turns in transactions. A pooler in transaction mode gives each of them now
//! this, now that of its connections to the server; one that does not carry prepared statements along
//! runs one client's statement with another's parameters.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    failure,
    session::{self, ConnectOptions},
};

/// Whose turn it is to begin. A pooler hands out what it was given last, or first: either way the two
/// get each other's in some round.
const TURNS: [[usize; 2]; 6] = [[0, 1], [0, 1], [1, 0], [1, 0], [0, 1], [1, 0]];
/// Time in which a pooler gives a connection, if it has more than one.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// Time for all of it.
const LIMIT: Duration = Duration::from_secs(10);

/// What each of the two asks: the server numbers both alike.
const QUESTIONS: [&str; 2] = [
    "SELECT pg_catalog.pg_backend_pid(), pg_catalog.concat($1::pg_catalog.text, 'a')",
    "SELECT pg_catalog.pg_backend_pid(), pg_catalog.concat('b', $1::pg_catalog.text)",
];
const ANSWERS: [&str; 2] = ["?a", "b?"];

const LOST: &str = "the pooler there loses prepared statements, so that statements run with the \
    parameters of others: it takes PgBouncer 1.21 or later with max_prepared_statements above 0, or a \
    URL without a pooler in transaction mode";
const TRANSACTION_POOLER: &str = "a pooler there gives each transaction another session: for \
    database.url set database.transaction_pooler = true, and have database.direct_url lead past it";
const STATEMENT_POOLER: &str = "the pooler there takes no transactions (pool_mode = statement): it takes pool_mode = \
     transaction or session";

/// Why it will not do.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It is out of reach, now.
    Unreachable(sqlx::Error),
    /// It is there, and must not be used; says what would be right.
    Refused(String),
}

impl From<sqlx::Error> for Unfit {
    fn from(error: sqlx::Error) -> Self {
        Self::Unreachable(error)
    }
}

/// Connects, and tries out what is there.
pub(super) async fn inspect(options: &ConnectOptions) -> Result<(), Unfit> {
    let mut first = options.connect_plainly().await?;
    let mut second = match options.connect_plainly().await {
        Ok(second) => second,
        Err(error) if failure::is_full(&error) => {
            debug!(%error, "one connection only: whether it leads through a pooler is not known");
            let _ = first.close().await;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let try_out = try_out(options, [&mut first, &mut second]);
    let outcome =
        timeout(LIMIT, try_out).await.unwrap_or_else(|_| Err(session::unanswered().into()));
    // It may hang with a transaction of the other's.
    let close = async { tokio::join!(first.close(), second.close()) };
    let _ = timeout(TURN_LIMIT, close).await;
    outcome
}

async fn try_out(options: &ConnectOptions, pair: [&mut PgConnection; 2]) -> Result<(), Unfit> {
    let mut processes = Vec::new();
    let mut side_by_side = true;
    for turns in TURNS {
        if side_by_side {
            for turn in turns {
                match timeout(TURN_LIMIT, execute(pair[turn], "BEGIN")).await {
                    Ok(begun) => begun?,
                    // It has one connection for both.
                    Err(_) => side_by_side = false,
                }
            }
        }
        if !side_by_side {
            // The one that waits for its turn gets it when the other has ended.
            for turn in turns {
                execute(pair[turn], "ROLLBACK").await?;
            }
        }
        for turn in turns {
            processes.push((turn, ask(pair[turn], turn).await?));
        }
        if side_by_side {
            for turn in turns {
                execute(pair[turn], "COMMIT").await?;
            }
        }
    }
    let of =
        |turn| processes.iter().filter(move |(of, _)| *of == turn).map(|(_, process)| *process);
    let wander =
        of(0).any(|process| of(0).any(|other| other != process) || of(1).any(|o| o == process));
    match (wander, options.transaction_pooler()) {
        (true, false) => Err(refused(TRANSACTION_POOLER)),
        (_, true) => check_defaults(pair[0]).await,
        (false, false) => Ok(()),
    }
}

async fn execute(conn: &mut PgConnection, sql: &str) -> Result<(), Unfit> {
    conn.execute(sql).await.map(drop).map_err(|error| {
        let text = error.as_database_error().map(|e| e.message().to_ascii_lowercase());
        // As PgBouncer puts it, in one version or another.
        let not_allowed =
            text.is_some_and(|text| text.contains("transaction") && text.contains("not allowed"));
        if not_allowed { refused(STATEMENT_POOLER) } else { error.into() }
    })
}

/// Asks which process of the server it is, by a statement that is prepared once.
async fn ask(conn: &mut PgConnection, turn: usize) -> Result<i32, Unfit> {
    let answer = sqlx::query(QUESTIONS[turn]).bind("?").fetch_one(conn).await;
    let row = answer.map_err(|error| match &error {
        sqlx::Error::Database(db) if !failure::ends_session(&error) => match db.code().as_deref() {
            Some(code) if code.starts_with('5') => error.into(),
            _ => refused(LOST),
        },
        _ => error.into(),
    })?;
    let (process, answer) = (row.try_get(0), row.try_get::<String, _>(1));
    match (process, answer) {
        (Ok(process), Ok(answer)) if answer == ANSWERS[turn] => Ok(process),
        _ => Err(refused(LOST)),
    }
}

fn refused(reason: &str) -> Unfit {
    Unfit::Refused(reason.to_owned())
}

/// Where nothing can be set for a session, its defaults must be right.
async fn check_defaults(conn: &mut PgConnection) -> Result<(), Unfit> {
    const WRONG: [(&str, &str, &str); 5] = [
        ("default_transaction_isolation", "read committed", "= 'read committed'"),
        ("standard_conforming_strings", "on", "= on"),
        ("quote_all_identifiers", "off", "= off"),
        ("gin_fuzzy_search_limit", "0", "= 0"),
        ("exit_on_error", "off", "= off"),
    ];
    for (name, right, remedy) in WRONG {
        let value = setting(conn, name).await?;
        if value.as_deref().is_some_and(|value| value != right) {
            return Err(Unfit::Refused(format!(
                "sessions behind the pooler have {name} = {}, with which the gateway cannot work: \
                 ALTER ROLE … SET {name} {remedy}, and reconnect the pooler",
                value.unwrap_or_default()
            )));
        }
    }
    let path = setting(conn, "search_path").await?.unwrap_or_default();
    let first = path
        .split(',')
        .map(|part| part.trim().trim_matches('"'))
        .position(|part| part == "pg_catalog");
    if first.is_some_and(|place| place > 0) {
        return Err(Unfit::Refused(format!(
            "sessions behind the pooler have search_path = {path}, where pg_catalog is not the first: \
             ALTER ROLE … SET search_path = pg_catalog, and reconnect the pooler"
        )));
    }
    for (name, what) in [
        ("statement_timeout", "statements that were given up on go on"),
        ("idle_in_transaction_session_timeout", "what a client left in a transaction stays locked"),
    ] {
        if setting(conn, name).await?.is_some_and(|value| value == "0") {
            warn!(
                "sessions behind the pooler have no {name}: {what} without end; \
                 ALTER ROLE … SET {name} is the remedy"
            );
        }
    }
    Ok(())
}

async fn setting(conn: &mut PgConnection, name: &str) -> Result<Option<String>, sqlx::Error> {
    let sql = format!("SELECT pg_catalog.current_setting('{name}', true)");
    conn.fetch_one(&*sql).await?.try_get(0)
}
