//! Settling messages and leasing the next ones, in one statement.

use std::sync::Arc;

use sqlx::{Row, postgres::PgRow};

use crate::domain::{QueueName, Settled, Target};

use super::{
    Action, Conn, Found, Read, SettleRules,
    decode::{ColumnAt, Text},
    error::{Error, Result},
    messages::{MSG_ID, try_decode},
    reads::{dead_letters, kept, leased},
    settling::{Targets, settled},
    size_limited_rows::SizeLimitedRows,
};

/// What a statement came to that ended messages and read others.
#[derive(Debug, Default)]
pub struct EndedAndRead {
    /// What became of each entry, in order.
    pub settled: Vec<Settled>,
    /// What was read.
    pub found: Found,
    /// Whether to delete plainly is not worth a try, and won't be for a while.
    pub is_separate: bool,
}

/// Ends messages, in order, as [`super::settle`] does, and then reads, if that is wanted, as [`super::read`] does, in
/// one commit. A row that its table refuses fails the whole.
///
/// The entries must be ends (see [`Action::is_end`]), and the read neither filtered nor in groups; its dead
/// letters go to the queue of the rules. Where they are deletes, and each of another message, they can be done
/// `plainly` first.
pub async fn settle_and_read(
    conn: &mut Conn,
    queue: &QueueName,
    entries: &[(Action, Target)],
    rules: SettleRules<'_>,
    read: Option<&Read>,
    plainly: bool,
) -> Result<EndedAndRead> {
    let targets: Targets = entries.iter().map(|(_, target)| target).collect();
    let actions: Vec<&str> = entries.iter().map(|(action, _)| action.as_str()).collect();
    let reasons: Vec<Option<&str>> = entries.iter().map(|(action, _)| action.reason()).collect();
    let (max_receives, _) = dead_letters(read.and_then(|read| read.dead_letters.as_ref()));
    let known_tables = Arc::clone(conn.known_tables());
    let known = known_tables.tell(plainly.then_some(queue).into_iter());
    let query = sqlx::query(
        "/* settle_and_read */ SELECT * FROM pgmq_gateway.settle_and_receive( \
         $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18) \
         ORDER BY place, msg_id",
    )
    .bind(queue.as_str())
    .bind(actions);
    let query = targets
        .bind(query)
        .bind(Some(reasons).filter(|all| all.iter().any(Option::is_some)))
        .bind(rules.dead_letter_queue.map(QueueName::as_str))
        .bind(read.map_or(0, |read| read.vt))
        .bind(read.map_or(0, |read| read.qty))
        .bind(max_receives)
        .bind(read.and_then(|read| read.since))
        .bind(plainly);
    let query = known.bind(query);
    let mut done = EndedAndRead::default();
    let mut fitted = SizeLimitedRows::new(read.map_or(0, |read| read.max_bytes));
    let mut outcomes: Vec<Result<Settled>> = Vec::with_capacity(entries.len());
    let take = |row: PgRow| {
        if let Some(word) = row.try_get::<Option<Text>, _>(ColumnAt(12, "outcome"))? {
            if row.try_get::<Option<i64>, _>(ColumnAt(11, "place"))?.is_none() {
                done.is_separate = &*word.0 == "separate";
                if &*word.0 == "all_done" {
                    outcomes.extend(entries.iter().map(|_| Ok(Settled::Done)));
                }
                return known_tables.learn(queue, &row);
            }
            let constraint: Option<Text> = row.try_get("constraint_name")?;
            outcomes.push(settled(&word.0, constraint.as_ref().map(|name| &*name.0)));
            return Ok(());
        }
        if row.try_get::<Option<i64>, _>(MSG_ID)?.is_some() {
            return fitted.take(&row, try_decode);
        }
        let dead: Option<i32> = row.try_get("dead")?;
        done.found.dead = usize::try_from(dead.unwrap_or(0)).unwrap_or(0);
        done.found.kept = kept(&row)?;
        Ok(())
    };
    conn.on(queue).change_each(query, take).await?;
    if outcomes.len() != entries.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    done.found.more = !fitted.left.is_empty();
    done.found.unreadable = std::mem::take(&mut fitted.unreadable);
    done.found.messages = leased(conn, queue, fitted).await;
    done.settled = outcomes.into_iter().collect::<Result<_>>()?;
    Ok(done)
}
