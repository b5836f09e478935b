//! A queue as it is shown among others, from what is in memory.

use crate::{
    broker::QueueOverview,
    domain::QueueSettings,
    http::{ScopePermit, right},
};

use super::{place, state::Dashboard, text};

/// Points of a small chart.
const POINTS: usize = 30;
/// Its size.
const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 24.0;

/// A queue.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) href: String,
    pub(super) visible: i64,
    pub(super) in_flight: i64,
    pub(super) delayed: i64,
    pub(super) length: i64,
    /// Whether figures are known, and whether they are estimates.
    pub(super) is_known: bool,
    pub(super) is_about: bool,
    pub(super) oldest_seconds: i64,
    pub(super) sent_rate: f64,
    pub(super) done_rate: f64,
    pub(super) waiters: usize,
    pub(super) paused: bool,
    pub(super) dead: Option<DeadLetters>,
    /// What is set otherwise than by default, in a word each.
    pub(super) settings: Vec<String>,
    pub(super) chart: Option<Spark>,
}

/// Where its dead letters go.
#[derive(Debug)]
pub(super) struct DeadLetters {
    pub(super) queue: String,
    pub(super) href: String,
    /// How many there are, if that is known.
    pub(super) count: Option<i64>,
}

/// A small chart: two lines.
#[derive(Debug)]
pub(super) struct Spark {
    pub(super) sent: String,
    pub(super) done: String,
    pub(super) said: String,
}

impl Row {
    /// Of what is known of a queue.
    pub(super) fn new(
        state: &Dashboard,
        permit: &ScopePermit<right::Any>,
        queue: &QueueOverview,
    ) -> Self {
        let dead = queue.dead_letters();
        let dead = dead.filter(|dead| permit.scope.contains(dead.as_str())).map(|dead| {
            let figures = permit.broker.overview_of(dead).known.figures;
            DeadLetters {
                queue: dead.to_string(),
                href: place::queue(dead.as_str()),
                count: figures.map(|figures| figures.length),
            }
        });
        Self { dead, ..Self::alone(state, queue) }
    }

    /// The same without its dead letters.
    pub(super) fn alone(state: &Dashboard, queue: &QueueOverview) -> Self {
        let name = queue.queue.to_string();
        let figures = queue.known.figures;
        let figure =
            |of: fn(&crate::telemetry::QueueFigures) -> i64| figures.as_ref().map_or(0, of);
        let (visible, backlog) = (figure(|of| of.visible), figure(|of| of.backlog));
        let length = figure(|of| of.length);
        let (sent_rate, done_rate) = state.shared().history.rates(&name);
        #[expect(clippy::cast_possible_truncation, reason = "whole seconds are enough")]
        let oldest_seconds = figures.map_or(0.0, |of| of.oldest_visible_age_seconds) as i64;
        Self {
            href: place::queue(&name),
            visible,
            in_flight: (backlog - visible).max(0),
            delayed: (length - backlog).max(0),
            length,
            is_known: figures.is_some(),
            is_about: length > state.shared().count_limit,
            oldest_seconds,
            sent_rate,
            done_rate,
            waiters: queue.waiters,
            paused: queue.paused,
            dead: None,
            settings: glance(&queue.settings, queue.fifo),
            chart: None,
            name,
        }
    }

    /// Adds the small chart, which only those need that are shown.
    pub(super) fn draw(&mut self, state: &Dashboard) {
        let sums = state.shared().history.sums(&self.name, POINTS);
        let most = sums.iter().map(|(sent, done)| (*sent).max(*done)).max().unwrap_or(0);
        if most == 0 {
            return;
        }
        let line = |of: fn(&(u32, u32)) -> u32| {
            let points = sums.iter().enumerate().map(|(place, sum)| {
                #[expect(clippy::cast_precision_loss, reason = "it is a drawing")]
                let x = place as f64 * WIDTH / (POINTS - 1) as f64;
                let y = HEIGHT - 1.0 - f64::from(of(sum)) * (HEIGHT - 2.0) / f64::from(most);
                format!("{x:.0},{y:.1}")
            });
            points.collect::<Vec<_>>().join(" ")
        };
        let all = |of: fn(&(u32, u32)) -> u32| sums.iter().map(of).map(i64::from).sum();
        let said = format!(
            "{} sent, {} done in the last hour",
            text::count(all(|sum| sum.0)),
            text::count(all(|sum| sum.1))
        );
        self.chart = Some(Spark { sent: line(|sum| sum.0), done: line(|sum| sum.1), said });
    }

    /// A figure, which may be an estimate or not known.
    fn figure(&self, number: i64) -> String {
        match (self.is_known, self.is_about) {
            (false, _) => "–".to_owned(),
            (true, true) if number > 0 => format!("about {}", text::count(number)),
            (true, _) => text::count(number),
        }
    }

    /// What could be delivered now.
    pub(super) fn visible_shown(&self) -> String {
        self.figure(self.visible)
    }

    /// What was delivered and is hidden.
    pub(super) fn in_flight_shown(&self) -> String {
        self.figure(self.in_flight)
    }

    /// What was not delivered yet and is hidden.
    pub(super) fn delayed_shown(&self) -> String {
        self.figure(self.delayed)
    }

    /// For how long the oldest could have been delivered.
    pub(super) fn oldest(&self) -> String {
        if self.visible > 0 { text::duration(self.oldest_seconds) } else { "–".to_owned() }
    }

    /// What comes in and goes out in a second.
    pub(super) fn rates(&self) -> String {
        format!("{} / {}", text::rate(self.sent_rate), text::rate(self.done_rate))
    }

    pub(super) fn dead_count(&self) -> i64 {
        self.dead.as_ref().and_then(|dead| dead.count).unwrap_or(0)
    }

    /// The same, as it is shown.
    pub(super) fn dead_shown(&self) -> String {
        let count = self.dead.as_ref().and_then(|dead| dead.count);
        count.map_or_else(|| "–".to_owned(), text::count)
    }
}

/// What is set otherwise than by default.
pub(super) fn glance(settings: &QueueSettings, fifo: bool) -> Vec<String> {
    let default = QueueSettings::default();
    let mut words = Vec::new();
    if fifo {
        words.push("groups in order".to_owned());
    }
    if settings.fair {
        words.push("fair".to_owned());
    }
    if settings.visibility_timeout != default.visibility_timeout {
        words.push(format!("vt {}", text::duration(settings.visibility_timeout.get())));
    }
    if settings.delay != default.delay {
        words.push(format!("delay {}", text::duration(settings.delay.get())));
    }
    if let Some(most) = settings.max_receives {
        words.push(format!("dead after {most}"));
    }
    if let Some(retention) = settings.message_retention {
        words.push(format!("kept {}", text::duration(retention.get())));
    }
    if settings.retry_backoff.is_some() {
        words.push("back-off".to_owned());
    }
    words
}

/// What all queues have together.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) visible: String,
    pub(super) in_flight: String,
    pub(super) delayed: String,
    pub(super) oldest: String,
    pub(super) rates: String,
    pub(super) waiters: String,
}

impl Sum {
    pub(super) fn of(rows: &[Row]) -> Self {
        let sum = |of: fn(&Row) -> i64| text::count(rows.iter().map(of).sum());
        let rate = |of: fn(&Row) -> f64| text::rate(rows.iter().map(of).sum());
        let oldest = rows.iter().filter(|row| row.visible > 0).map(|row| row.oldest_seconds).max();
        let waiters: usize = rows.iter().map(|row| row.waiters).sum();
        Self {
            visible: sum(|row| row.visible),
            in_flight: sum(|row| row.in_flight),
            delayed: sum(|row| row.delayed),
            oldest: oldest.map_or_else(|| "–".to_owned(), text::duration),
            rates: format!("{} / {}", rate(|row| row.sent_rate), rate(|row| row.done_rate)),
            waiters: text::count(i64::try_from(waiters).unwrap_or(i64::MAX)),
        }
    }
}
