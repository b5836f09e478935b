//! The settings of queues, in SQL.

use serde_json::Value;
use sqlx::{Row, types::Json};

use crate::domain::{Bounded, Notify, QueueName, QueueSettings, SettingsChange};

use super::{
    Conn,
    error::{Error, Result},
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

/// The settings of all queues that have some, are read in groups, or have a table of another name.
pub async fn all_settings(conn: &mut Conn) -> Result<Vec<Configured>> {
    let rows = conn
        .look(sqlx::query("/* all_settings */ SELECT * FROM pgmq_gateway.all_settings()"))
        .await?;
    let configured = rows.iter().map(|row| {
        Ok(Configured {
            queue: row.try_get("queue")?,
            settings: settings(row.try_get("settings")?, None),
            fifo: row.try_get("fifo")?,
        })
    });
    configured.collect::<std::result::Result<_, _>>().map_err(Error::unexpected)
}

/// Changes settings of a queue; false where there is none.
pub async fn change_settings(
    conn: &mut Conn,
    queue: &QueueName,
    change: &SettingsChange,
) -> Result<bool> {
    let query = sqlx::query("/* change_settings */ SELECT pgmq_gateway.change_settings($1, $2)");
    let rows = conn.look(query.bind(queue.as_str()).bind(Json(change.to_json()))).await?;
    let row = rows.first().ok_or_else(|| Error::unexpected(sqlx::Error::RowNotFound))?;
    row.try_get(0).map_err(Error::unexpected)
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
