//! Queues, in SQL.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Row,
    error::DatabaseError,
    postgres::{PgDatabaseError, PgRow},
    types::Json,
};

use crate::domain::{
    Partition, Queue, QueueKind, QueueMetrics, QueueName, SettingsChange, Settled,
};

use super::{
    Conn,
    decode::{Text, get, only_row, text, time},
    error::{Error, Result},
    queue_attributes::AttributesBeside,
    settings::parse,
    settling::settled,
};

const LIST: &str = "/* list_queues */ SELECT * FROM pgmq_gateway.list_queues($1, $2, $3, $4)";

/// Time for the names of all queues.
const LIST_LIMIT: Duration = Duration::from_secs(5);

/// What became of the wish for a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    /// It is new.
    Created,
    /// It was there, and is alike.
    Exists,
    /// It was there, with another kind.
    Differs(String),
    /// It was there, partitioned in another way.
    PartitionDiffers,
    /// Another queue, named here, has its table.
    Folds(String),
    /// The relation named here, which belongs to no queue, has the name of a table that it would have.
    Taken(String),
    /// Partitions of the queue named here have, or will have, such names.
    PartitionOf(String),
    /// It has a name as what belongs to queues has.
    Derived,
    /// pg_partman is not installed.
    NoPartman,
}

/// What the metrics show of a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueueFigures {
    /// Messages in the queue; an estimate where there are many.
    pub length: i64,
    /// Messages that could be delivered now; an estimate where there are many.
    pub visible: i64,
    /// Messages that could be delivered now, and those that are in somebody's hands; an estimate where there
    /// are many.
    pub backlog: i64,
    /// Age of the oldest message in seconds; 0 where there is none.
    pub oldest_age_seconds: f64,
    /// Seconds for which the message that waits longest could have been delivered; 0 where there is none.
    pub oldest_visible_age_seconds: f64,
}

/// How long a look at a queue may take.
#[derive(Clone, Copy, Debug)]
pub struct LookLimits {
    /// Time to wait for a lock.
    pub lock: Duration,
    /// Time for everything.
    pub statement: Duration,
}

/// What a lock on the whole table of a queue leaves to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableAccess {
    /// Everything: there is no such lock.
    All,
    /// They can look at it.
    Looks,
    /// Nothing.
    None,
}

const PUT: &str = "/* put_queue */ \
    SELECT outcome, existing FROM pgmq_gateway.put_queue($1, $2, $3, $4, $5, $6, $7)";
/// With what front ends keep of a queue that is new.
const PUT_BOTH: &str = "/* put_queue */ \
    SELECT p.outcome, p.existing, CASE WHEN p.outcome = 'created' \
           THEN pgmq_gateway.change_queue_attributes($1, $8, $9, $10, $11, $12) END \
    FROM pgmq_gateway.put_queue($1, $2, $3, $4, $5, $6, $7) p";

/// Makes a queue with all that belongs to it, and what is kept `beside` it, unless it is there.
pub async fn create(
    conn: &mut Conn,
    queue: &QueueName,
    kind: QueueKind,
    partition: Option<&Partition>,
    fifo: bool,
    change: &SettingsChange,
    beside: Option<&AttributesBeside>,
) -> Result<CreateOutcome> {
    let mut query = sqlx::query(if beside.is_some() { PUT_BOTH } else { PUT })
        .bind(queue.as_str())
        .bind(kind.as_str())
        .bind(partition.map(Partition::interval))
        .bind(partition.map(Partition::retention))
        .bind(fifo)
        .bind(Json(change.to_json()))
        .bind(queue.is_derived());
    if let Some(beside) = beside {
        query = beside.bind_to(query);
    }
    let rows = conn.run_repeatable(query).await?;
    let row = only_row(&rows)?;
    let outcome: String = get(row, "outcome")?;
    let existing: Option<Text> = get(row, "existing")?;
    let existing = existing.map(|name| name.0).unwrap_or_default();
    match &*outcome {
        "created" => Ok(CreateOutcome::Created),
        "exists" => Ok(CreateOutcome::Exists),
        "differs" => Ok(CreateOutcome::Differs(existing)),
        "partition_differs" => Ok(CreateOutcome::PartitionDiffers),
        "folds" => Ok(CreateOutcome::Folds(existing)),
        "taken" => Ok(CreateOutcome::Taken(existing)),
        "partition_of" => Ok(CreateOutcome::PartitionOf(existing)),
        "derived" => Ok(CreateOutcome::Derived),
        "no_partman" => Ok(CreateOutcome::NoPartman),
        other => Err(Error::unexpected_word(other)),
    }
}

/// Looks, without waiting, whether somebody has locked the whole table of a queue.
pub async fn table_access(conn: &mut Conn, queue: &QueueName) -> Result<TableAccess> {
    let query = sqlx::query("/* table_access */ SELECT pgmq_gateway.table_access($1) AS access");
    let rows = conn.on(queue).run_repeatable(query.bind(queue.as_str())).await?;
    match get(only_row(&rows)?, "access")? {
        "all" => Ok(TableAccess::All),
        "looks" => Ok(TableAccess::Looks),
        "none" => Ok(TableAccess::None),
        other => Err(Error::unexpected_word(other)),
    }
}

/// One queue.
pub async fn show(conn: &mut Conn, queue: &QueueName) -> Result<Option<Queue>> {
    let query = sqlx::query(LIST).bind("").bind(None::<&str>).bind(1_i64).bind(queue.as_str());
    conn.run_repeatable(query).await?.first().map(decode).transpose()
}

/// Whether PGMQ knows a queue by exactly this name, and its table is there.
pub async fn exists(conn: &mut Conn, queue: &QueueName) -> Result<bool> {
    ask(conn, "/* queue_exists */ SELECT pgmq_gateway.is_known_queue($1)", queue).await
}

/// The same, or whether it has a table and PGMQ lists none by any spelling of its name.
pub async fn is_served(conn: &mut Conn, queue: &QueueName) -> Result<bool> {
    ask(conn, "/* queue_is_served */ SELECT pgmq_gateway.is_served($1)", queue).await
}

async fn ask(conn: &mut Conn, question: &str, queue: &QueueName) -> Result<bool> {
    let rows = conn.run_repeatable(sqlx::query(question).bind(queue.as_str())).await?;
    only_row(&rows)?.try_get(0).map_err(Error::unexpected)
}

/// Queues whose names begin with `prefix` and come behind `after`, in order of their names' bytes.
pub async fn list(
    conn: &mut Conn,
    prefix: &str,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Queue>> {
    let query = sqlx::query(LIST).bind(prefix).bind(after).bind(limit).bind(None::<&str>);
    conn.run_repeatable(query).await?.iter().map(decode).collect()
}

/// What became of the wish to drop a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropOutcome {
    /// It is gone. Dead letters of these queues went there.
    Dropped(Vec<String>),
    /// There is none.
    Missing,
    /// Dead letters of these queues go there.
    InUse(Vec<String>),
    /// What is named here stands where it has a table, and is none of its own.
    InTheWay(String),
}

/// Drops a queue with its archive; one to which dead letters go only if that is `forced`.
pub async fn drop_queue(conn: &mut Conn, queue: &QueueName, forced: bool) -> Result<DropOutcome> {
    let query = sqlx::query(
        "/* drop_queue */ SELECT dropped, used_by, in_the_way FROM pgmq_gateway.drop_queue($1, $2)",
    );
    let rows = conn.on(queue).change(query.bind(queue.as_str()).bind(forced)).await?;
    let row = only_row(&rows)?;
    if let Some(Text(name)) = get(row, "in_the_way")? {
        return Ok(DropOutcome::InTheWay(name));
    }
    let used_by = get::<Option<Vec<String>>>(row, "used_by")?;
    Ok(match (get(row, "dropped")?, used_by) {
        (true, used_by) => DropOutcome::Dropped(used_by.unwrap_or_default()),
        (false, Some(used_by)) if !used_by.is_empty() => DropOutcome::InUse(used_by),
        (false, _) => DropOutcome::Missing,
    })
}

/// Empties a queue at once and says how many messages there were; `None` where its messages are to be
/// deleted instead, as somebody is at the table, or policies and triggers are to be asked.
pub async fn truncate(conn: &mut Conn, queue: &QueueName) -> Result<Option<i64>> {
    let query = sqlx::query("/* truncate */ SELECT pgmq_gateway.truncate_queue($1) AS purged");
    get(only_row(&conn.on(queue).change(query.bind(queue.as_str())).await?)?, "purged")
}

/// The last id of a queue, 0 where there is none.
pub async fn last_id(conn: &mut Conn, queue: &QueueName) -> Result<i64> {
    let query = sqlx::query("/* last_id */ SELECT pgmq_gateway.last_id($1) AS last_id");
    get(only_row(&conn.on(queue).run_repeatable(query.bind(queue.as_str())).await?)?, "last_id")
}

/// What a step of deleting all messages of a queue came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// How many were deleted.
    pub count: i64,
    /// The id behind which to go on, if there may be more.
    pub last_id: Option<i64>,
    /// The first that stays, and why.
    pub kept: Option<(i64, Settled)>,
}

/// Deletes the next messages of a queue behind `after`, up to the id `up_to`.
pub async fn delete_next(
    conn: &mut Conn,
    queue: &QueueName,
    after: i64,
    up_to: i64,
    max_messages: i32,
) -> Result<Deleted> {
    let query = sqlx::query(
        "/* delete_next */ \
         SELECT deleted, last_id, kept, kept_id FROM pgmq_gateway.delete_next($1, $2, $3, $4)",
    );
    let query = query.bind(queue.as_str()).bind(after).bind(up_to).bind(max_messages);
    let rows = conn.on(queue).change(query).await?;
    let row = only_row(&rows)?;
    let kept: Option<&str> = get(row, "kept")?;
    let kept = match (get(row, "kept_id")?, kept) {
        (Some(id), Some(word)) => Some((id, settled(word, None)?)),
        _ => None,
    };
    Ok(Deleted { count: get(row, "deleted")?, last_id: get(row, "last_id")?, kept })
}

/// Exact figures of a queue: counts every message.
pub async fn metrics(conn: &mut Conn, queue: &QueueName) -> Result<QueueMetrics> {
    let query = sqlx::query("/* metrics */ SELECT * FROM pgmq_gateway.metrics($1)");
    let rows = conn.on(queue).run_repeatable(query.bind(queue.as_str())).await?;
    let row = only_row(&rows)?;
    Ok(QueueMetrics {
        queue: queue.as_str().to_owned(),
        queue_length: get(row, "queue_length")?,
        queue_visible_length: get(row, "queue_visible_length")?,
        in_flight: get(row, "in_flight")?,
        newest_msg_age_sec: get(row, "newest_msg_age_sec")?,
        oldest_msg_age_sec: get(row, "oldest_msg_age_sec")?,
        total_messages: get(row, "total_messages")?,
        backlog: get(row, "backlog")?,
        oldest_visible_msg_age_sec: get(row, "oldest_visible_msg_age_sec")?,
        scrape_time: time(row, "scrape_time")?,
    })
}

/// Names of all queues that can be asked for, in order of their bytes.
pub async fn names(conn: &mut Conn) -> Result<Vec<String>> {
    let query = sqlx::query("/* queue_names */ SELECT * FROM pgmq_gateway.queue_names()");
    let rows = conn.look_patiently(query, LIST_LIMIT).await?;
    let mut names: Vec<String> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Figures of a queue at a bounded cost: counts at most `count_limit` messages.
pub async fn figures(
    conn: &mut Conn,
    queue: &QueueName,
    count_limit: u32,
    limits: LookLimits,
) -> Result<QueueFigures> {
    // The limit on locks is set on the way, which saves a round trip.
    let query = sqlx::query(
        "/* queue_figures */ SELECT f.length, f.visible, f.backlog, f.oldest_age, f.oldest_visible_age \
         FROM (SELECT pg_catalog.set_config('lock_timeout', $3, true) AS lock_timeout) s, \
         pgmq_gateway.queue_figures(CASE WHEN s.lock_timeout IS NOT NULL THEN $1 END, $2) f",
    )
    .bind(queue.as_str())
    .bind(i32::try_from(count_limit).unwrap_or(i32::MAX))
    .bind(format!("{}ms", limits.lock.as_millis()));
    let rows = conn.on(queue).look_patiently(query, limits.statement).await?;
    let row = only_row(&rows)?;
    let age = |column| Ok::<_, Error>(get::<Option<f64>>(row, column)?.unwrap_or(0.0).max(0.0));
    Ok(QueueFigures {
        length: get(row, "length")?,
        visible: get(row, "visible")?,
        backlog: get(row, "backlog")?,
        oldest_age_seconds: age("oldest_age")?,
        oldest_visible_age_seconds: age("oldest_visible_age")?,
    })
}

/// Why a queue cannot be read, in the database's words unless those may have text of messages in them.
pub fn read_refusal(error: &Error) -> String {
    let Some(database) = database_error(error) else { return error.to_string() };
    let Some(database) = database.try_downcast_ref::<PgDatabaseError>() else {
        return format!("SQLSTATE {}", database.code().unwrap_or_default());
    };
    // What somebody's function raises (that of a policy, say), and what quotes a value.
    let raised = database.routine() == Some("exec_stmt_raise");
    if raised || ["22", "23", "38", "39", "P0"].iter().any(|c| database.code().starts_with(c)) {
        return format!("SQLSTATE {}", database.code());
    }
    database.message().to_owned()
}

fn database_error(error: &Error) -> Option<&(dyn DatabaseError + 'static)> {
    let source = std::error::Error::source(error)?;
    let source = match source.downcast_ref::<Arc<sqlx::Error>>() {
        Some(shared) => shared,
        None => source.downcast_ref::<sqlx::Error>()?,
    };
    source.as_database_error()
}

fn decode(row: &PgRow) -> Result<Queue> {
    let kind = match (get(row, "is_partitioned")?, get(row, "is_unlogged")?) {
        (true, _) => QueueKind::Partitioned,
        (false, true) => QueueKind::Unlogged,
        (false, false) => QueueKind::Standard,
    };
    let queue = text(row, "queue")?;
    Ok(Queue {
        kind,
        fifo: get(row, "fifo")?,
        created_at: time(row, "created_at")?,
        row_security: get(row, "row_security")?,
        dead_letter_queue_missing: get::<Option<bool>>(row, "dead_letters_missing")?
            .unwrap_or(false),
        settings: parse(row, &queue, get(row, "notify_ms")?).settings,
        queue,
    })
}
