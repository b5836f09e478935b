//! Log lines that come by the thousand.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Lines of a kind that are written in a second.
const LINES: u32 = 5;
/// For so long they are counted together.
const WINDOW: Duration = Duration::from_secs(1);

/// Bounds how many lines of a kind are written, and counts those that are left out.
#[derive(Debug, Default)]
pub struct FloodGate(Mutex<HashMap<&'static str, Window>>);

#[derive(Debug)]
struct Window {
    begun: Instant,
    written: u32,
    left_out: u64,
}

/// What to do with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It is written, and tells how many before it were left out.
    Write {
        /// How many.
        left_out: u64,
    },
    /// It is left out. Where it is the first one, ask for [`FloodGate::take_left_out`] in so long:
    /// there may be no line that comes behind it.
    LeaveOut {
        /// When to ask.
        ask_in: Option<Duration>,
    },
}

impl FloodGate {
    /// Takes note of a line of a kind.
    pub fn check(&self, kind: &'static str) -> Line {
        let now = Instant::now();
        let mut kinds = self.lock();
        let window = kinds.entry(kind).or_insert(Window { begun: now, written: 0, left_out: 0 });
        if now.duration_since(window.begun) >= WINDOW {
            (window.begun, window.written) = (now, 0);
        }
        if window.written < LINES {
            window.written += 1;
            return Line::Write { left_out: std::mem::take(&mut window.left_out) };
        }
        window.left_out += 1;
        let ends = window.begun + WINDOW;
        Line::LeaveOut { ask_in: (window.left_out == 1).then(|| ends.duration_since(now)) }
    }

    /// How many lines of a kind were left out that no line has told of.
    pub fn take_left_out(&self, kind: &'static str) -> u64 {
        self.lock().get_mut(kind).map_or(0, |window| std::mem::take(&mut window.left_out))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// Checks so many lines, and returns how many are written and what they tell of others.
    fn check(gate: &FloodGate, lines: u32) -> (u32, u64) {
        let mut sum = (0, 0);
        for _ in 0..lines {
            if let Line::Write { left_out } = gate.check("a") {
                sum = (sum.0 + 1, sum.1 + left_out);
            }
        }
        sum
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_lines_are_written_and_the_others_counted() {
        let gate = FloodGate::default();
        assert_eq!(check(&gate, 100), (LINES, 0));
        assert_eq!(gate.check("b"), Line::Write { left_out: 0 }, "another kind");
        sleep(WINDOW).await;
        assert_eq!(check(&gate, 1), (1, 95));
        assert_eq!(check(&gate, 100), (LINES - 1, 0));
        sleep(WINDOW * 10).await;
        assert_eq!(gate.take_left_out("a"), 96);
        assert_eq!(check(&gate, 3), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_first_left_out_asks_when_the_second_is_over() {
        let gate = FloodGate::default();
        check(&gate, LINES);
        sleep(WINDOW / 4).await;
        assert_eq!(gate.check("a"), Line::LeaveOut { ask_in: Some(WINDOW * 3 / 4) });
        assert_eq!(gate.check("a"), Line::LeaveOut { ask_in: None });
        assert_eq!(gate.take_left_out("a"), 2);
        assert_eq!(gate.check("a"), Line::LeaveOut { ask_in: Some(WINDOW * 3 / 4) });
    }
}
