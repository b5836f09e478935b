//! Transactions of several requests in one statement, in SQL.

use std::time::Duration;

use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;

use super::{
    Conn, Idempotency, Operation,
    decode::get,
    error::{Error, Result},
    idempotency::bind_keys,
    transactions::{Transacted, encode},
};

/// A transaction that shares a statement with others.
#[derive(Clone, Copy, Debug)]
pub struct SharedRequest<'a> {
    /// Its operations.
    pub operations: &'a [Operation],
    /// What stands for the request, if it is to be done once.
    pub once: Option<&'a Idempotency>,
}

/// What became of a transaction that shared a statement with others.
#[derive(Debug)]
pub enum SharedOutcome<T> {
    /// It went through, or its key did before.
    Settled(Transacted<T>),
    /// Nothing was done for it: it has to be done apart, where it is told why if it fails.
    Alone,
    /// The same, because of what somebody else has locked.
    Locked,
}

/// Does the transactions of several requests in one statement, each as a whole or not at all; one that fails is
/// in the way of none of the others. What takes longer than `limit` is undone, all of it, unless it cannot be
/// cancelled.
pub async fn transact_each<T: DeserializeOwned>(
    conn: &mut Conn,
    requests: &[SharedRequest<'_>],
    limit: Duration,
) -> Result<Vec<SharedOutcome<T>>> {
    let encoded: Result<Vec<Vec<u8>>> =
        requests.iter().map(|request| encode(request.operations)).collect();
    let query = sqlx::query(
        "/* transact_each */ SELECT outcome, results \
         FROM pgmq_gateway.transact_each($1, $2, $3, $4, $5) ORDER BY place",
    )
    .bind(encoded?);
    let once: Vec<_> = requests.iter().map(|request| request.once).collect();
    let query = bind_keys(query, &once);
    let rows = conn.store_within(query, limit).await?;
    if rows.len() != requests.len() {
        return Err(Error::unexpected(sqlx::Error::RowNotFound));
    }
    rows.iter().map(outcome).collect()
}

fn outcome<T: DeserializeOwned>(row: &PgRow) -> Result<SharedOutcome<T>> {
    match get(row, "outcome")? {
        "alone" => Ok(SharedOutcome::Alone),
        "locked" => Ok(SharedOutcome::Locked),
        word => match Transacted::from_row(word, row)? {
            Some(transacted) => Ok(SharedOutcome::Settled(transacted)),
            None => Err(Error::unexpected_word(word)),
        },
    }
}
