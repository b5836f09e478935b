//! Rows as they come in, of which no more are kept than there is room for.

use sqlx::{Row, postgres::PgRow};

use crate::domain::{ArchivedMessage, DeliveryId, Message};

use super::{decode::Timestamp, statement::Taken};

/// What was read, in the order of the rows: the first ones, as many as fit, and at least one.
#[derive(Debug)]
pub(super) struct SizeLimitedRows<T> {
    pub(super) kept: Vec<T>,
    /// Those that did not fit.
    pub(super) left: Vec<DeliveryId>,
    /// The ids of those whose content is nothing that can be read.
    pub(super) unreadable: Vec<i64>,
    room: u64,
}

/// Messages that were looked at.
#[derive(Debug)]
pub struct Page<T> {
    /// In order of their ids.
    pub messages: Vec<T>,
    /// Whether there may be others behind them.
    pub more: bool,
    /// The ids of those among them that are left out, as their content cannot be read.
    pub unreadable: Vec<i64>,
    /// The id of the last one that was looked at.
    pub last_id: Option<i64>,
}

/// Something that takes room.
pub(super) trait Weighs {
    fn bytes(&self) -> u64;
    fn id(&self) -> i64;
}

impl Weighs for Message {
    fn bytes(&self) -> u64 {
        self.bytes()
    }

    fn id(&self) -> i64 {
        self.msg_id
    }
}

impl Weighs for ArchivedMessage {
    fn bytes(&self) -> u64 {
        self.message.bytes()
    }

    fn id(&self) -> i64 {
        self.message.msg_id
    }
}

impl<T: Weighs> SizeLimitedRows<T> {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { kept: Vec::new(), left: Vec::new(), unreadable: Vec::new(), room: max_bytes }
    }

    pub(super) fn take(
        &mut self,
        row: &PgRow,
        decode: impl FnOnce(&PgRow) -> Result<T, sqlx::Error>,
    ) -> Taken {
        match self.try_take(row, decode) {
            Err(sqlx::Error::ColumnDecode { .. }) => self.unreadable.push(row.try_get("msg_id")?),
            outcome => return outcome,
        }
        Ok(())
    }

    fn try_take(
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
        self.left.push(delivery(row)?);
        Ok(())
    }

    /// A page of at most `limit`, or more where several have the last id. A full one may be the last: then the next one
    /// is empty.
    pub(super) fn into_page(mut self, limit: i32) -> Page<T> {
        self.leave_to_next();
        let count = self.kept.len() + self.unreadable.len();
        let is_full = i32::try_from(count).is_ok_and(|count| count >= limit);
        let last_id = self.kept.last().map(T::id).max(self.unreadable.last().copied());
        let more = is_full || !self.left.is_empty();
        Page { more, messages: self.kept, unreadable: self.unreadable, last_id }
    }

    /// The next page goes on behind an id: where others of the last one did not fit, all of it is the next page's,
    /// unless this one has no other.
    fn leave_to_next(&mut self) {
        let Some(next) = self.left.first().map(|left| left.msg_id) else { return };
        let count = self.kept.iter().take_while(|kept| kept.id() != next).count();
        self.unreadable.retain(|id| *id < next || *id == next && count == 0);
        if count > 0 {
            self.kept.truncate(count);
        }
    }
}

fn delivery(row: &PgRow) -> Result<DeliveryId, sqlx::Error> {
    let last_read_at: Option<Timestamp> = row.try_get("last_read_at")?;
    Ok(DeliveryId {
        msg_id: row.try_get("msg_id")?,
        read_ct: row.try_get("read_ct")?,
        queue_id: row.try_get("queue_id")?,
        read_stamp: DeliveryId::stamp_of(last_read_at.map(|time| time.0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row(i64);

    impl Weighs for Row {
        fn bytes(&self) -> u64 {
            1
        }

        fn id(&self) -> i64 {
            self.0
        }
    }

    fn page(kept: &[i64], left: &[i64]) -> (Vec<i64>, Option<i64>, bool) {
        page_with(kept, left, &[])
    }

    fn page_with(kept: &[i64], left: &[i64], unreadable: &[i64]) -> (Vec<i64>, Option<i64>, bool) {
        let delivery =
            |id: &i64| DeliveryId { msg_id: *id, read_ct: 0, queue_id: 1, read_stamp: 0 };
        let rows = SizeLimitedRows {
            kept: kept.iter().copied().map(Row).collect(),
            left: left.iter().map(delivery).collect(),
            unreadable: unreadable.to_vec(),
            room: 0,
        };
        let page = rows.into_page(9);
        (page.messages.iter().map(|row| row.0).collect(), page.last_id, page.more)
    }

    #[test]
    fn a_page_ends_behind_the_last_message_of_an_id() {
        assert_eq!(page(&[1, 2], &[3]), (vec![1, 2], Some(2), true));
        assert_eq!(page(&[1, 2, 2], &[2, 3]), (vec![1], Some(1), true));
        assert_eq!(page(&[2, 2], &[2]), (vec![2, 2], Some(2), true));
        // Nor is what cannot be read and stands behind it looked at before that.
        assert_eq!(page_with(&[1], &[3], &[2, 4]), (vec![1], Some(2), true));
        assert_eq!(page_with(&[1], &[2, 2], &[2]), (vec![1], Some(1), true));
    }
}
