//! What is kept of queues for front ends, in SQL.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, value::RawValue};
use sqlx::{
    Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
    types::Json,
};

use crate::domain::{QueueName, Scope};

use super::{
    Conn,
    decode::{Text, get, only_row, text, time_option},
    error::{Error, Result},
};

/// Bytes of an attribute or a tag. What SQL has stored beyond that is not there (see `pgmq_gateway.kept_text`).
pub const MAX_ATTRIBUTE_BYTES: usize = 8_192;

/// What is kept of a queue beside PGMQ and its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueAttributes {
    /// What clients of another protocol call it.
    pub alias: String,
    /// What was set for it there.
    pub attributes: BTreeMap<String, String>,
    /// What people stick on it.
    pub tags: BTreeMap<String, String>,
    /// When any of these was changed.
    pub modified_at: Option<DateTime<Utc>>,
}

/// What to change of it; `None` takes something away.
#[derive(Clone, Debug, Default)]
pub struct AttributesChange {
    /// Attributes by name.
    pub attributes: BTreeMap<String, Option<String>>,
    /// Tags by key.
    pub tags: BTreeMap<String, Option<String>>,
    /// Attributes as they must still be, for nothing is changed otherwise.
    pub still: BTreeMap<String, Option<String>>,
    /// Nothing is changed where something is kept already.
    pub first_only: bool,
}

/// What is changed of it in the same transaction as something else.
#[derive(Clone, Debug)]
pub struct AttributesBeside {
    /// What clients of another protocol call the queue.
    pub alias: String,
    /// The change.
    pub change: AttributesChange,
}

impl AttributesBeside {
    /// Binds it behind what a statement has already.
    pub(super) fn bind_to<'q>(
        &'q self,
        query: Query<'q, Postgres, PgArguments>,
    ) -> Query<'q, Postgres, PgArguments> {
        let AttributesChange { attributes, tags, still, first_only } = &self.change;
        let query = query.bind(&self.alias).bind(Json(attributes)).bind(Json(tags));
        query.bind(Json(still)).bind(*first_only)
    }
}

/// A queue with its name in another protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedQueue {
    /// What clients of the other protocol call it.
    pub alias: String,
    /// Its name.
    pub queue: String,
}

/// What is kept of a queue; nothing where there is no such queue.
pub async fn queue_attributes(
    conn: &mut Conn,
    queue: &QueueName,
) -> Result<Option<QueueAttributes>> {
    let query =
        sqlx::query("/* queue_attributes */ SELECT * FROM pgmq_gateway.queue_attributes($1)");
    let rows = conn.run_repeatable(query.bind(queue.as_str())).await?;
    rows.first().map(decode).transpose()
}

fn decode(row: &PgRow) -> Result<QueueAttributes> {
    Ok(QueueAttributes {
        alias: text(row, "alias")?,
        attributes: texts(&get::<Json<Value>>(row, "attributes")?.0),
        tags: texts(&get::<Json<Value>>(row, "tags")?.0),
        modified_at: time_option(row, "modified_at")?,
    })
}

/// The members that are texts, as all of them are.
fn texts(object: &Value) -> BTreeMap<String, String> {
    let members = object.as_object().into_iter().flatten();
    members.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// Changes what is kept of a queue; false where there is none, and nothing where it is not still as it must be.
pub async fn change_queue_attributes(
    conn: &mut Conn,
    queue: &QueueName,
    alias: &str,
    change: &AttributesChange,
) -> Result<Option<bool>> {
    let query = sqlx::query(
        "/* change_queue_attributes */ \
         SELECT pgmq_gateway.change_queue_attributes($1, $2, $3, $4, $5, $6) AS changed",
    )
    .bind(queue.as_str())
    .bind(alias)
    .bind(Json(&change.attributes))
    .bind(Json(&change.tags))
    .bind(Json(&change.still))
    .bind(change.first_only);
    get(only_row(&conn.change(query).await?)?, "changed")
}

/// Whether it was noted less than so many seconds ago that a queue was emptied.
pub async fn is_purged(conn: &mut Conn, queue: &QueueName, pause_seconds: i32) -> Result<bool> {
    let query = sqlx::query("/* is_purged */ SELECT pgmq_gateway.is_purged($1, $2) AS purged");
    get(
        only_row(&conn.run_repeatable(query.bind(queue.as_str()).bind(pause_seconds)).await?)?,
        "purged",
    )
}

/// Notes that a queue was emptied.
pub async fn note_purge(conn: &mut Conn, queue: &QueueName, alias: &str) -> Result<()> {
    let query = sqlx::query("/* note_purge */ SELECT pgmq_gateway.note_purge($1, $2)");
    conn.change(query.bind(queue.as_str()).bind(alias)).await.map(drop)
}

/// Queues `within` what is allowed whose aliases begin with `prefix` and come behind `after`, in order of the aliases'
/// bytes.
pub async fn list_aliases(
    conn: &mut Conn,
    prefix: &str,
    after: &str,
    within: &Scope,
    limit: i32,
) -> Result<Vec<NamedQueue>> {
    let query =
        sqlx::query("/* list_aliases */ SELECT * FROM pgmq_gateway.list_aliases($1, $2, $3, $4)");
    let query = query.bind(prefix).bind(after).bind(limit).bind(within.to_regex());
    named(&conn.run_repeatable(query).await?)
}

/// The queues `within` what is allowed whose dead letters go to `queue`, behind the name `after`.
pub async fn dead_letter_sources(
    conn: &mut Conn,
    queue: &QueueName,
    after: &str,
    within: &Scope,
    limit: i32,
) -> Result<Vec<NamedQueue>> {
    let query = sqlx::query(
        "/* dead_letter_sources */ SELECT * FROM pgmq_gateway.dead_letter_sources($1, $2, $3, $4)",
    );
    let query = query.bind(queue.as_str()).bind(after).bind(limit).bind(within.to_regex());
    named(&conn.run_repeatable(query).await?)
}

fn named(rows: &[PgRow]) -> Result<Vec<NamedQueue>> {
    let named = |row| Ok(NamedQueue { alias: text(row, "alias")?, queue: text(row, "queue")? });
    rows.iter().map(named).collect()
}

/// What clients of another protocol call these queues, in order; nothing of one that has no other name.
pub async fn aliases(conn: &mut Conn, queues: &[&str]) -> Result<Vec<Option<String>>> {
    let query = sqlx::query("/* aliases */ SELECT a AS alias FROM pgmq_gateway.aliases($1) a");
    let rows = conn.run_repeatable(query.bind(queues)).await?;
    rows.iter().map(|row| Ok(get::<Option<Text>>(row, "alias")?.map(|alias| alias.0))).collect()
}

/// The ids of these queues, in order, as [`crate::domain::DeliveryId::queue_id`]; 0 for one that is not there.
pub async fn queue_ids(conn: &mut Conn, queues: &[&str]) -> Result<Vec<i64>> {
    let query = sqlx::query("/* queue_ids */ SELECT q AS id FROM pgmq_gateway.queue_ids($1) q");
    let rows = conn.run_repeatable(query.bind(queues)).await?;
    rows.iter().map(|row| get(row, "id")).collect()
}

/// Which queue has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOwner {
    /// The one that was asked about; it may have had the id before.
    Own,
    /// Another one.
    Another,
    /// None that is there.
    Nobody,
}

/// Which queue has this id, seen from this one: see [`crate::domain::DeliveryId::queue_id`].
pub async fn whose_id(conn: &mut Conn, queue: &QueueName, id: i64) -> Result<IdOwner> {
    let query = sqlx::query("/* whose_id */ SELECT pgmq_gateway.whose_id($1, $2) AS owner");
    let rows = conn.run_repeatable(query.bind(queue.as_str()).bind(id)).await?;
    Ok(match get(only_row(&rows)?, "owner")? {
        "own" => IdOwner::Own,
        "another" => IdOwner::Another,
        "none" => IdOwner::Nobody,
        other => return Err(Error::unexpected_word(other)),
    })
}

/// What the senders of messages with these headers were told as their ids, in order.
pub async fn first_message_ids(
    conn: &mut Conn,
    queue: &QueueName,
    headers: &[&RawValue],
) -> Result<Vec<Option<String>>> {
    let headers: Vec<Json<&RawValue>> = headers.iter().copied().map(Json).collect();
    let query = sqlx::query(
        "/* first_message_ids */ SELECT f AS message_id FROM pgmq_gateway.first_message_ids($1, $2) f",
    );
    let rows = conn.run_repeatable(query.bind(queue.as_str()).bind(headers)).await?;
    let id = |row| Ok(get::<Option<Text>>(row, "message_id")?.map(|id| id.0));
    rows.iter().map(id).collect()
}

/// Forgets what does not count any more; true if there may be more of it.
pub async fn delete_expired_attributes(conn: &mut Conn, max_rows: i32) -> Result<bool> {
    let query = sqlx::query(
        "/* delete_expired_attributes */ SELECT pgmq_gateway.delete_expired_attributes($1) AS more",
    );
    get(only_row(&conn.run_repeatable(query.bind(max_rows)).await?)?, "more")
}
