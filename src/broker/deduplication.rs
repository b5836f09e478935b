//! Which messages are stored, and which were there already.

use crate::domain::NewMessage;

/// A message that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number within the queue.
    pub msg_id: i64,
    /// Whether it was there already, sent with the same deduplication id.
    pub is_duplicate: bool,
}

impl Sent {
    /// Reads what the store answers: the id of a duplicate has another second bit, as `pgmq_gateway.of_duplicate`
    /// marks it. The sign is free for ids: the sequence of a queue may count down.
    pub(super) fn of(id: i64, is_deduplicated: bool) -> Self {
        const MARK: i64 = 1 << 62;
        let is_duplicate = is_deduplicated && !matches!(id >> 62, 0 | -1);
        Self { msg_id: if is_duplicate { id ^ MARK } else { id }, is_duplicate }
    }
}

/// Which of these messages have a deduplication id, or may have one.
pub(super) fn deduplicated(messages: &[NewMessage]) -> Vec<bool> {
    let may_be = |new: &NewMessage| {
        let headers = new.headers.as_deref().map_or("", |headers| headers.get());
        // An escape may stand for any character.
        headers.contains("deduplication-id") || headers.contains("\\u")
    };
    messages.iter().map(may_be).collect()
}

/// What became of messages by the ids that the store answers.
pub(super) fn sent_from_ids(ids: Vec<i64>, deduplicated: Vec<bool>) -> Vec<Sent> {
    ids.into_iter().zip(deduplicated).map(|(id, is_so)| Sent::of(id, is_so)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_is_told_from_an_id_of_any_sign() {
        for id in [1, 0, -1, -7, i64::MAX >> 1, i64::MIN >> 1] {
            assert_eq!(Sent::of(id, true), Sent { msg_id: id, is_duplicate: false });
            assert_eq!(Sent::of(id ^ 1 << 62, true), Sent { msg_id: id, is_duplicate: true });
        }
        assert_eq!(Sent::of(i64::MAX, false).msg_id, i64::MAX);
    }
}
