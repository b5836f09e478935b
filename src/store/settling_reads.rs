//! Settling messages and leasing the next ones, in one statement.

use sqlx::{Row, postgres::PgRow};

use crate::domain::{QueueName, Settled, Target};

use super::{
    Action, Conn, Found, Read, SettleRules,
    decode::Text,
    error::{Error, Result},
    messages::try_decode,
    reads::{dead_letters, kept, leased},
    settling::{Targets, settled},
    size_limited_rows::SizeLimitedRows,
};

/// Ends messages, in order, as [`super::settle`] does, and then reads as [`super::read`] does, in one commit. A row
/// that its table refuses fails the whole.
///
/// The entries must be ends (see [`Action::is_end`]), and the read neither filtered nor in groups; its dead
/// letters go to the queue of the rules.
pub async fn settle_and_read(
    conn: &mut Conn,
    queue: &QueueName,
    entries: &[(Action, Target)],
    rules: SettleRules<'_>,
    read: &Read,
) -> Result<(Vec<Settled>, Found)> {
    let targets: Targets = entries.iter().map(|(_, target)| target).collect();
    let actions: Vec<&str> = entries.iter().map(|(action, _)| action.as_str()).collect();
    let reasons: Vec<Option<&str>> = entries.iter().map(|(action, _)| action.reason()).collect();
    let (max_receives, _) = dead_letters(read.dead_letters.as_ref());
    let query = sqlx::query(
        "/* settle_and_read */ SELECT * FROM pgmq_gateway.settle_and_receive( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ORDER BY place, msg_id",
    )
    .bind(queue.as_str())
    .bind(actions)
    .bind(targets.ids)
    .bind(targets.counts)
    .bind(targets.stamps)
    .bind(targets.queues)
    .bind(Some(reasons).filter(|all| all.iter().any(Option::is_some)))
    .bind(rules.dead_letter_queue.map(QueueName::as_str))
    .bind(read.vt)
    .bind(read.qty)
    .bind(max_receives)
    .bind(read.since);
    let (mut found, mut fitted) = (Found::default(), SizeLimitedRows::new(read.max_bytes));
    let mut outcomes: Vec<Result<Settled>> = Vec::with_capacity(entries.len());
    let take = |row: PgRow| {
        if let Some(word) = row.try_get::<Option<Text>, _>("outcome")? {
            let constraint: Option<Text> = row.try_get("constraint_name")?;
            outcomes.push(settled(&word.0, constraint.as_ref().map(|name| &*name.0)));
            return Ok(());
        }
        if row.try_get::<Option<i64>, _>("msg_id")?.is_some() {
            return fitted.take(&row, try_decode);
        }
        let dead: Option<i32> = row.try_get("dead")?;
        found.dead = usize::try_from(dead.unwrap_or(0)).unwrap_or(0);
        found.kept = kept(&row)?;
        Ok(())
    };
    conn.on(queue).change_each(query, take).await?;
    if outcomes.len() != entries.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    found.more = !fitted.left.is_empty();
    found.unreadable = std::mem::take(&mut fitted.unreadable);
    found.messages = leased(conn, queue, fitted).await;
    Ok((outcomes.into_iter().collect::<Result<_>>()?, found))
}
