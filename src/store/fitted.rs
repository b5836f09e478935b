//! Rows as they come in, of which no more are kept than there is room for.

use sqlx::{Row, postgres::PgRow};

use crate::domain::{ArchivedMessage, Message};

use super::conn::Taken;

/// What was read, in the order of the rows: the first ones, as many as fit, and at least one.
#[derive(Debug)]
pub(super) struct Fitted<T> {
    pub(super) kept: Vec<T>,
    /// Of those that did not fit, `msg_id` and `read_ct`.
    pub(super) left: Vec<(i64, i32)>,
    room: u64,
}

/// Messages that were looked at.
#[derive(Debug)]
pub struct Page<T> {
    /// In order of their ids.
    pub messages: Vec<T>,
    /// Whether there may be others behind them.
    pub more: bool,
}

/// Something that takes room.
pub(super) trait Weighs {
    fn bytes(&self) -> u64;
}

impl Weighs for Message {
    fn bytes(&self) -> u64 {
        self.bytes()
    }
}

impl Weighs for ArchivedMessage {
    fn bytes(&self) -> u64 {
        self.message.bytes()
    }
}

impl<T: Weighs> Fitted<T> {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { kept: Vec::new(), left: Vec::new(), room: max_bytes }
    }

    pub(super) fn take(
        &mut self,
        row: &PgRow,
        decode: impl FnOnce(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Taken {
        // Behind one that did not fit, none is kept: the order has no holes.
        if self.left.is_empty() {
            let message = decode(row)?;
            let room = self.room.checked_sub(message.bytes());
            if room.is_some() || self.kept.is_empty() {
                self.room = room.unwrap_or(0);
                self.kept.push(message);
                return Ok(());
            }
        }
        self.left.push((row.try_get("msg_id")?, row.try_get("read_ct")?));
        Ok(())
    }

    /// A page of at most `limit`. A full one may be the last: then the next one is empty.
    pub(super) fn into_page(self, limit: i32) -> Page<T> {
        let is_full = i32::try_from(self.kept.len()).is_ok_and(|count| count >= limit);
        Page { more: is_full || !self.left.is_empty(), messages: self.kept }
    }
}
