//! The last requests that went wrong on this side, for people who look.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};

/// How many are kept.
const KEPT: usize = 100;
/// Characters of a cause that are kept.
const MAX_CAUSE: usize = 500;

/// A request that was answered with a status of 500 or more.
#[derive(Clone, Debug)]
pub struct RecentError {
    /// When it was answered.
    pub at: DateTime<Utc>,
    /// Its method.
    pub method: String,
    /// The route's pattern.
    pub route: String,
    /// The queue that it was about.
    pub queue: Option<String>,
    /// The status of the answer.
    pub status: u16,
    /// The word for what was wrong.
    pub code: Option<&'static str>,
    /// Its id, as the log has it.
    pub request_id: String,
    /// What caused it, as the log has it, up to 500 characters.
    pub cause: Option<String>,
}

/// The last 100 of them.
#[derive(Debug, Default)]
pub struct RecentErrors(Mutex<VecDeque<RecentError>>);

impl RecentErrors {
    /// Keeps one; the oldest goes.
    pub fn add(&self, mut error: RecentError) {
        if let Some(cause) = &mut error.cause
            && let Some((end, _)) = cause.char_indices().nth(MAX_CAUSE)
        {
            cause.truncate(end);
            cause.push('…');
        }
        let mut kept = self.lock();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(error);
    }

    /// Those that are kept, the newest first.
    pub fn newest_first(&self) -> Vec<RecentError> {
        self.lock().iter().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RecentError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_and_long_causes_cut() {
        let errors = RecentErrors::default();
        for status in 0..KEPT + 5 {
            errors.add(RecentError {
                at: Utc::now(),
                method: "GET".to_owned(),
                route: "/queues".to_owned(),
                queue: None,
                status: u16::try_from(status).expect("few"),
                code: None,
                request_id: String::new(),
                cause: Some("ä".repeat(MAX_CAUSE + 1)),
            });
        }
        let kept = errors.newest_first();
        assert_eq!((kept.len(), kept[0].status, kept[KEPT - 1].status), (KEPT, 104, 5));
        let cause = kept[0].cause.as_deref().expect("kept");
        assert_eq!(cause.chars().count(), MAX_CAUSE + 1);
    }
}
