//! Charts that need no script: drawings in SVG.

use super::{history::Sample, text};

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;

/// A line of a chart.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) title: &'static str,
    pub(super) points: String,
}

/// A chart of the last hour.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
    /// The largest value, at the top.
    pub(super) top: String,
}

type Of = fn(&Sample) -> u32;

/// What a line is called, in the style sheet and to people, and its values.
type Drawn = (&'static str, &'static str, Of);

/// The charts of a queue.
pub(super) fn charts(samples: &[Sample]) -> Vec<Chart> {
    let depth: [Drawn; 2] = [
        ("visible", "waiting", |sample| sample.visible),
        ("in-flight", "in flight", |sample| sample.in_flight),
    ];
    let rates: [Drawn; 2] =
        [("sent", "sent", |sample| sample.sent), ("done", "done", |sample| sample.done)];
    vec![
        chart("depth", "Messages", samples, &depth, 1.0),
        chart("rates", "Messages a second, at this gateway", samples, &rates, 10.0),
    ]
}

fn chart(
    id: &'static str,
    title: &'static str,
    samples: &[Sample],
    drawn: &[Drawn],
    divisor: f64,
) -> Chart {
    let values = samples.iter().flat_map(|sample| drawn.iter().map(|(.., of)| of(sample)));
    let most = values.max().unwrap_or(0);
    let steps = super::history::SAMPLES - 1;
    let line = |(class, title, of): &Drawn| {
        let points = samples.iter().rev().enumerate().map(|(back, sample)| {
            #[expect(clippy::cast_precision_loss, reason = "it is a drawing")]
            let x = WIDTH - back as f64 * WIDTH / steps as f64;
            let y = HEIGHT - f64::from(of(sample)) * (HEIGHT - 4.0) / f64::from(most.max(1));
            format!("{x:.0},{y:.1}")
        });
        Line { class, title, points: points.collect::<Vec<_>>().join(" ") }
    };
    let top = f64::from(most) / divisor;
    Chart { id, title, lines: drawn.iter().map(line).collect(), top: text::rate(top) }
}
