//! What statements for several queues found out about the queues' tables, for those that come soon after.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use sqlx::{
    Row,
    postgres::{PgRow, types::Oid},
};
use tokio::time::{Duration, Instant};

use crate::domain::QueueName;

use super::statement::Statement;

/// For how long that holds without another look. What shows in the table's entry in the catalogue counts at once.
const LIFETIME: Duration = Duration::from_secs(1);
/// Tables that are remembered.
const MOST: usize = 4096;

/// Tables that store what they are given and nothing else, as of a moment ago. Of one that was changed a moment ago
/// nothing is known: what a statement says of it may be from before.
#[derive(Debug, Default)]
pub(super) struct KnownTables(Mutex<HashMap<QueueName, (Instant, Option<KnownTable>)>>);

/// A table, and its entry in the catalogue of which that was said.
#[derive(Clone, Debug)]
struct KnownTable {
    oid: Oid,
    version: String,
    name: String,
    shape: i32,
    queue_id: Option<i64>,
}

/// What is known of the tables of several queues, as statements take it.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) oids: Vec<Option<Oid>>,
    pub(super) versions: Vec<Option<String>>,
    pub(super) names: Vec<Option<String>>,
    pub(super) shapes: Vec<Option<i32>>,
    pub(super) queue_ids: Vec<Option<i64>>,
}

impl Told {
    /// As the last parameters of a statement.
    pub(super) fn bind(self, query: Statement<'_>) -> Statement<'_> {
        query
            .bind(self.oids)
            .bind(self.versions)
            .bind(self.names)
            .bind(self.shapes)
            .bind(self.queue_ids)
    }
}

impl KnownTables {
    /// What is known of the tables of these queues, in order.
    pub(super) fn tell<'a>(&self, queues: impl Iterator<Item = &'a QueueName>) -> Told {
        let now = Instant::now();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Told::default();
        for queue in queues {
            let fresh = known.get(queue).filter(|(since, _)| now < *since + LIFETIME);
            let table = fresh.and_then(|(_, table)| table.as_ref());
            told.oids.push(table.map(|t| t.oid));
            told.versions.push(table.map(|t| t.version.clone()));
            told.names.push(table.map(|t| t.name.clone()));
            told.shapes.push(table.map(|t| t.shape));
            told.queue_ids.push(table.and_then(|t| t.queue_id));
        }
        told
    }

    /// Remembers what a row says of a queue's table, if it does.
    pub(super) fn learn(&self, queue: &QueueName, row: &PgRow) -> Result<(), sqlx::Error> {
        let Some(oid) = row.try_get("table_oid")? else { return Ok(()) };
        let table = KnownTable {
            oid,
            version: row.try_get("version")?,
            name: row.try_get("table_name")?,
            shape: row.try_get("shape")?,
            queue_id: row.try_get("queue_id")?,
        };
        self.insert(queue, table);
        Ok(())
    }

    /// Forgets a queue's table, as it is another one by now, with an index that its entry in the catalogue does not
    /// show.
    pub(super) fn forget(&self, queue: &QueueName) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(queue.clone(), (Instant::now(), None));
    }

    fn insert(&self, queue: &QueueName, table: KnownTable) {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(queue).is_some_and(|(since, known)| known.is_none() && now < *since + LIFETIME)
        {
            return;
        }
        if known.len() >= MOST && !known.contains_key(queue) {
            known.retain(|_, (since, _)| now < *since + LIFETIME);
        }
        if known.len() < MOST || known.contains_key(queue) {
            known.insert(queue.clone(), (now, Some(table)));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn table(oid: u32) -> KnownTable {
        let (version, name) = ("7".to_owned(), "pgmq.q_a".to_owned());
        KnownTable { oid: Oid(oid), version, name, shape: 7, queue_id: Some(3) }
    }

    fn queue(name: &str) -> QueueName {
        QueueName::parse(name).expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_told_in_order_and_forgotten() {
        let known = KnownTables::default();
        known.insert(&queue("b"), table(5));
        let queues = [queue("a"), queue("b")];
        let told = known.tell(queues.iter());
        assert_eq!(told.oids, [None, Some(Oid(5))]);
        assert_eq!(told.names, [None, Some("pgmq.q_a".to_owned())]);
        assert_eq!(told.queue_ids, [None, Some(3)]);
        advance(LIFETIME).await;
        assert_eq!(known.tell(queues.iter()).oids, [None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_remembered_than_there_is_place_for() {
        let known = KnownTables::default();
        for n in 0..=MOST {
            known.insert(&queue(&format!("q{n}")), table(1));
        }
        let is_known = |name: &str| known.tell([queue(name)].iter()).oids[0].is_some();
        assert!(is_known("q0") && !is_known(&format!("q{MOST}")));
        advance(LIFETIME).await;
        known.insert(&queue("later"), table(1));
        assert!(is_known("later"));
    }
}
