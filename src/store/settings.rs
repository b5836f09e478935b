//! The settings of queues, in SQL.

use std::collections::BTreeSet;

use chrono::Utc;
use serde_json::Value;
use sqlx::{Row, postgres::PgRow, types::Json};
use tracing::warn;

use crate::domain::{Bounded, Notify, QueueName, QueueSettings, SettingsChange};

use super::{
    Conn, DatabaseClock,
    decode::{Text, get, only_row, text, time},
    error::Result,
    queue_attributes::AttributesBeside,
    reports::Reports,
};

/// A queue that has settings, is read in groups, or has a table of another name.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Its name.
    pub queue: String,
    /// Its settings; [`QueueSettings::notify`] is not among them.
    pub settings: QueueSettings,
    /// Whether it has the index for reading in groups.
    pub fifo: bool,
    /// What its name is in that of its table, where that is another one.
    pub folded: Option<String>,
    /// Whether the queue that is set for its dead letters is not there.
    pub dead_letters_missing: bool,
    /// Whether it has settings, and policies of the database hide whether they are its own.
    pub is_hidden: bool,
}

/// The settings of all queues; tells `clock` what time it is there.
pub async fn all_settings(conn: &mut Conn, clock: &DatabaseClock) -> Result<Vec<Configured>> {
    let query = sqlx::query(
        "/* all_settings */ SELECT s.queue, s.settings, s.fifo, s.folded, s.dead_letters_missing, \
         s.hidden, clock_timestamp() AS now \
         FROM (VALUES (1)) one LEFT JOIN pgmq_gateway.all_settings() s ON true",
    );
    let asked = Utc::now();
    let rows = conn.run_repeatable(query).await?;
    clock.observe(asked, time(only_row(&rows)?, "now")?, Utc::now());
    let mut configured = Vec::with_capacity(rows.len());
    let mut odd = BTreeSet::new();
    for row in &rows {
        // Where there are none, the only row has the time alone.
        if get::<Option<Text>>(row, "queue")?.is_some() {
            let queue = text(row, "queue")?;
            let Parsed { settings, unknown } = parse(row, &queue, None);
            odd.extend(unknown.map(|setting| format!("{queue}: {setting}")));
            let folded = Some(text(row, "folded")?).filter(|folded| *folded != queue);
            let missing: Option<bool> = get(row, "dead_letters_missing")?;
            configured.push(Configured {
                queue,
                settings,
                fifo: get(row, "fifo")?,
                folded,
                dead_letters_missing: missing.unwrap_or(false),
                is_hidden: get(row, "hidden")?,
            });
        }
    }
    for what in ODD.news(odd) {
        warn!(
            what,
            "a row of pgmq_gateway.queue_settings makes no sense there: the default counts"
        );
    }
    Ok(configured)
}

static ODD: Reports = Reports::new();

const CHANGE: &str = "/* change_settings */ SELECT pgmq_gateway.change_settings($1, $2) AS changed";
/// With what front ends keep of the queue.
const CHANGE_BOTH: &str = "/* change_settings */ \
    SELECT CASE WHEN pgmq_gateway.change_settings($1, $2) \
           THEN coalesce(pgmq_gateway.change_queue_attributes($1, $3, $4, $5, $6, $7), true) \
           ELSE false END AS changed";

/// Changes settings of a queue, and what is kept `beside` them; false where there is none.
pub async fn change_settings(
    conn: &mut Conn,
    queue: &QueueName,
    change: &SettingsChange,
    beside: Option<&AttributesBeside>,
) -> Result<bool> {
    let query = sqlx::query(if beside.is_some() { CHANGE_BOTH } else { CHANGE });
    let mut query = query.bind(queue.as_str()).bind(Json(change.to_json()));
    if let Some(beside) = beside {
        query = beside.bind_to(query);
    }
    get(only_row(&conn.on(queue).change(query).await?)?, "changed")
}

/// Refuses insert notifications of which PGMQ in this database knows nothing.
pub async fn check_notify(conn: &mut Conn, notify: Notify) -> Result<()> {
    let query = sqlx::query("/* check_notify */ SELECT pgmq_gateway.check_notify($1)");
    conn.run_repeatable(query.bind(notify.throttle_ms.as_i32())).await.map(drop)
}

/// Settings as they were stored.
pub(super) struct Parsed {
    pub(super) settings: QueueSettings,
    /// The first setting that is none.
    unknown: Option<&'static str>,
}

/// Reads the settings in a row. What a later gateway stored and this one does not know is left out, and so is
/// what is no setting.
pub(super) fn parse(row: &PgRow, queue: &str, notify_ms: Option<i32>) -> Parsed {
    let stored = row.try_get::<Option<Json<Value>>, _>("settings");
    let stored = stored.map_or(Value::Bool(false), |json| json.map_or(Value::Null, |json| json.0));
    let mut unknown = (!stored.is_object() && !stored.is_null()).then_some("settings");
    let mut settings = QueueSettings::default();
    for name in NAMES {
        let Some(value) = stored.get(name).filter(|value| !value.is_null()) else { continue };
        let change = serde_json::from_value::<SettingsChange>(serde_json::json!({ name: value }));
        let change = change.ok().filter(|change| {
            let dead_letters = change.dead_letter_queue.as_ref().and_then(Option::as_ref);
            dead_letters.is_none_or(|dead_letters| dead_letters.0.as_str() != queue)
        });
        match change {
            Some(change) => settings = change.applied_to(&settings),
            None => unknown = unknown.or(Some(name)),
        }
    }
    let notify = notify_ms.map(|ms| Notify { throttle_ms: Bounded::saturating(ms.into()) });
    Parsed { settings: QueueSettings { notify, ..settings }, unknown }
}

/// The settings; `notify` is what PGMQ says.
const NAMES: [&str; 10] = [
    "visibility_timeout",
    "delay",
    "max_message_bytes",
    "max_receives",
    "dead_letter_queue",
    "message_retention",
    "archive_retention",
    "paused",
    "retry_backoff",
    "fair",
];
