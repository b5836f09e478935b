//! Which requests have a line in the log.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::config::RequestLines;

/// Of how many requests a share is told.
const WHOLE: u32 = 1_000_000;
/// The status from which a request has gone wrong, and that of a defect of the gateway's.
const ERROR: u16 = 400;
const DEFECT: u16 = 500;
/// The status of a request whose client left before it was answered: nothing has gone wrong.
const CLIENT_LEFT: u16 = 499;

/// The process's, as its logger is.
static CHOICE: Choice = Choice::new();

/// What is chosen, in numbers that can be read by many at once.
#[derive(Debug)]
struct Choice {
    /// Of requests without an error, so many of a million.
    parts: AtomicU32,
    /// 1 if those with an error have lines.
    errors: AtomicU32,
    /// Requests without an error so far.
    requests: AtomicU64,
}

impl Choice {
    const fn new() -> Self {
        Self {
            parts: AtomicU32::new(WHOLE),
            errors: AtomicU32::new(1),
            requests: AtomicU64::new(0),
        }
    }

    fn set(&self, lines: RequestLines) {
        let (parts, errors) = match lines {
            RequestLines::All => (WHOLE, 1),
            RequestLines::Errors => (0, 1),
            RequestLines::Off => (0, 0),
            RequestLines::Sample(parts) => (parts.min(WHOLE), 1),
        };
        self.parts.store(parts, Relaxed);
        self.errors.store(errors, Relaxed);
    }

    fn has_line(&self, status: u16) -> bool {
        if status == DEFECT {
            return true;
        }
        if status >= ERROR && status != CLIENT_LEFT {
            return self.errors.load(Relaxed) == 1;
        }
        match self.parts.load(Relaxed) {
            0 => false,
            WHOLE => true,
            parts => {
                // Evenly: whenever the sum of the shares gets to the next whole.
                let before = u128::from(self.requests.fetch_add(1, Relaxed));
                let sum = |requests: u128| requests * u128::from(parts) / u128::from(WHOLE);
                sum(before + 1) > sum(before)
            }
        }
    }
}

/// Chooses for the process.
pub(super) fn choose(lines: RequestLines) {
    CHOICE.set(lines);
}

/// Whether a request that was answered with this status has a line. Asked once for each.
pub fn has_line(status: u16) -> bool {
    CHOICE.has_line(status)
}

/// Characters of a caller's request id that are taken over.
const MAX_REQUEST_ID: usize = 128;

/// Whether what a caller calls a request can stand in a log, and in its answer.
pub fn is_request_id(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: RequestLines, status: u16) -> usize {
        let choice = Choice::new();
        choice.set(lines);
        (0..1_000).filter(|_| choice.has_line(status)).count()
    }

    #[test]
    fn requests_have_lines_as_it_was_chosen() {
        for (chosen, fine, wrong) in [
            (RequestLines::All, 1_000, 1_000),
            (RequestLines::Errors, 0, 1_000),
            (RequestLines::Off, 0, 0),
            (RequestLines::Sample(10_000), 10, 1_000),
            (RequestLines::Sample(333_333), 333, 1_000),
            (RequestLines::Sample(WHOLE), 1_000, 1_000),
        ] {
            assert_eq!(lines(chosen, 200), fine, "{chosen:?}");
            assert_eq!(lines(chosen, CLIENT_LEFT), fine, "{chosen:?}");
            assert_eq!(lines(chosen, 404), wrong, "{chosen:?}");
            assert_eq!(lines(chosen, 503), wrong, "{chosen:?}");
            assert_eq!(lines(chosen, DEFECT), 1_000, "{chosen:?}");
        }
    }
}
