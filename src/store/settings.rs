//! The settings of queues, in SQL.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;

use crate::domain::{Bounded, Notify, QueueName, QueueSettings, SettingsChange};

use super::{
    Conn,
    decode::{Text, get, only_row, text, time},
    error::Result,
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
}

/// What is set for queues, and what time it is.
#[derive(Debug)]
pub struct AllSettings {
    /// All queues that have settings, are read in groups, or have a table of another name.
    pub configured: Vec<Configured>,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// The settings of all queues.
pub async fn all_settings(conn: &mut Conn) -> Result<AllSettings> {
    let query = sqlx::query(
        "/* all_settings */ SELECT s.queue, s.settings, s.fifo, clock_timestamp() AS now \
         FROM (VALUES (1)) one LEFT JOIN pgmq_gateway.all_settings() s ON true",
    );
    let rows = conn.look(query).await?;
    let now = time(only_row(&rows)?, "now")?;
    let mut configured = Vec::with_capacity(rows.len());
    for row in &rows {
        // Where there are none, the only row has the time alone.
        if get::<Option<Text>>(row, "queue")?.is_some() {
            configured.push(Configured {
                queue: text(row, "queue")?,
                settings: settings(get(row, "settings")?, None),
                fifo: get(row, "fifo")?,
            });
        }
    }
    Ok(AllSettings { configured, now })
}

/// Changes settings of a queue; false where there is none.
pub async fn change_settings(
    conn: &mut Conn,
    queue: &QueueName,
    change: &SettingsChange,
) -> Result<bool> {
    let query =
        sqlx::query("/* change_settings */ SELECT pgmq_gateway.change_settings($1, $2) AS changed");
    let query = query.bind(queue.as_str()).bind(Json(change.to_json()));
    get(only_row(&conn.on(queue).look(query).await?)?, "changed")
}

/// Settings as they were stored. What a later gateway stored and this one does not know is left out.
pub(super) fn settings(stored: Option<Json<Value>>, notify_ms: Option<i32>) -> QueueSettings {
    let stored = stored.map_or(Value::Null, |json| json.0);
    let one = |name: &str| {
        let value = stored.get(name).filter(|value| !value.is_null())?;
        serde_json::from_value::<SettingsChange>(serde_json::json!({ name: value })).ok()
    };
    let names = [
        "visibility_timeout",
        "delay",
        "max_message_bytes",
        "max_receives",
        "dead_letter_queue",
        "message_retention",
        "archive_retention",
    ];
    let known = names.into_iter().filter_map(one);
    let settings = known.fold(QueueSettings::default(), |so_far, one| one.applied_to(&so_far));
    let notify = notify_ms.map(|ms| Notify { throttle_ms: Bounded::saturating(ms.into()) });
    QueueSettings { notify, ..settings }
}
