//! A page of an archive, found in steps of a bounded number of rows.

use std::time::Duration;

use crate::{
    domain::{ArchivedMessage, PageSize, QueueName},
    store::{ArchiveStep, Archived, Page, Step},
};

use super::row_budget::RowBudget;

/// A page of an archive.
#[derive(Clone, Debug)]
pub struct Browse {
    /// The queue.
    pub queue: QueueName,
    /// The id behind which to begin.
    pub after: i64,
    /// The most messages to return.
    pub limit: PageSize,
    /// Which messages.
    pub which: Archived,
}

/// What has been found of a page, and how to go on.
#[derive(Debug)]
pub(super) struct ArchiveSearch {
    pub(super) page: Page<ArchivedMessage>,
    /// Bytes that still fit.
    pub(super) room: u64,
    /// Whether those that cannot be sent are left out.
    pub(super) readable_only: bool,
    from: i64,
    limit: i32,
    /// Where not every message fits.
    rows: Option<RowBudget>,
}

impl ArchiveSearch {
    pub(super) fn new(what: &Browse, limit: i32, max_bytes: u64) -> Self {
        let (messages, unreadable) = (Vec::new(), Vec::new());
        Self {
            page: Page { messages, unreadable, more: true, last_id: None },
            room: max_bytes,
            readable_only: false,
            from: what.after,
            limit,
            rows: what.which.is_search().then(RowBudget::of_search),
        }
    }

    /// The next step.
    pub(super) fn step(&self) -> Step {
        let found = i32::try_from(self.page.messages.len()).unwrap_or(i32::MAX);
        let after = self.page.last_id.unwrap_or(self.from);
        let rows = self.rows.map(RowBudget::rows);
        Step { after, up_to: None, limit: (self.limit - found).max(1), rows }
    }

    /// Takes what a step found; false if the page is full, or there are no more.
    pub(super) fn take(&mut self, step: ArchiveStep, took: Duration) -> bool {
        let ArchiveStep { page, is_cut } = step;
        let bytes: u64 = page.messages.iter().map(|found| found.message.bytes()).sum();
        if bytes > self.room && !self.page.messages.is_empty() {
            // A step gives one at least, even if it does not fit: it is the next page's.
            return false;
        }
        self.room = self.room.saturating_sub(bytes);
        self.page.messages.extend(page.messages);
        self.page.unreadable.extend(page.unreadable);
        self.page.more = page.more;
        self.page.last_id = page.last_id.or(self.page.last_id);
        if let Some(rows) = &mut self.rows {
            rows.note_search(took, !is_cut);
        }
        is_cut
    }

    /// A step took too long; false if it is not worth a try with less.
    pub(super) fn narrow(&mut self) -> bool {
        let asked = self.step().limit;
        self.limit = i32::try_from(self.page.messages.len()).unwrap_or(i32::MAX).saturating_add(1);
        let is_fewer_rows = self.rows.as_mut().is_some_and(RowBudget::shrink);
        asked > 1 || is_fewer_rows
    }

    /// Whether anything has been looked at.
    pub(super) fn has_moved(&self) -> bool {
        self.page.last_id.is_some()
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::domain::{Filter, Message};

    fn search(limit: i32, max_bytes: u64) -> ArchiveSearch {
        let filter: Filter = r#"{"a":1}"#.parse().expect("a filter");
        let which = Archived { filter: Some(filter), ..Archived::default() };
        let queue = QueueName::parse("q").expect("valid");
        let what = Browse { queue, after: 7, limit: PageSize::saturating(9), which };
        ArchiveSearch::new(&what, limit, max_bytes)
    }

    fn found(msg_id: i64) -> ArchivedMessage {
        let at = DateTime::<Utc>::UNIX_EPOCH;
        let message = Message {
            msg_id,
            read_ct: 0,
            enqueued_at: at,
            last_read_at: None,
            vt: at,
            message: serde_json::from_str("1234567890").expect("JSON"),
            headers: None,
            queue_id: 1,
            receipt: None,
        };
        ArchivedMessage { message, archived_at: at }
    }

    fn step(ids: &[i64], last_id: Option<i64>, is_cut: bool) -> ArchiveStep {
        let messages = ids.iter().map(|id| found(*id)).collect();
        ArchiveStep { page: Page { messages, unreadable: vec![], more: is_cut, last_id }, is_cut }
    }

    #[test]
    fn steps_go_on_behind_what_was_looked_at_until_there_is_no_more() {
        let mut search = search(3, 1_000_000);
        assert_eq!((search.step().after, search.step().limit), (7, 3));
        assert!(search.take(step(&[], Some(100), true), Duration::ZERO));
        assert!(search.take(step(&[120], Some(200), true), Duration::ZERO));
        assert_eq!((search.step().after, search.step().limit), (200, 2));
        assert!(!search.take(step(&[], None, false), Duration::ZERO));
        let ids: Vec<i64> = search.page.messages.iter().map(|found| found.message.msg_id).collect();
        assert_eq!((ids, search.page.more, search.page.last_id), (vec![120], false, Some(200)));
    }

    #[test]
    fn what_does_not_fit_any_more_is_the_next_pages() {
        let mut search = search(9, found(1).message.bytes() + 1);
        assert!(search.take(step(&[10], Some(50), true), Duration::ZERO));
        assert!(!search.take(step(&[60], Some(60), false), Duration::ZERO));
        assert_eq!(search.page.messages.len(), 1);
        assert_eq!((search.page.more, search.page.last_id), (true, Some(50)));
    }

    #[test]
    fn a_step_that_takes_too_long_is_tried_with_less_until_that_is_nothing() {
        let mut search = search(9, 1_000_000);
        assert!(search.take(step(&[10], Some(50), true), Duration::ZERO));
        let before = search.step().rows;
        assert!(search.narrow());
        assert_eq!(search.step().limit, 1);
        assert!(search.step().rows < before);
        while search.narrow() {}
        assert!(search.has_moved() && search.page.more);
    }
}
