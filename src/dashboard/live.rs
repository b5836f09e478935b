//! Pages that are kept up to date: one stream for each viewer, from what is in memory.

use std::{collections::HashMap, fmt::Write, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio::time::sleep;

use crate::{
    domain::QueueName,
    http::{Exhausted, Place, ScopePermit, right},
};

use super::{
    failure::Failure,
    form::Form,
    history::{INTERVAL_SECONDS, Sample},
    overview::Row,
    pages::queue_name,
    state::Dashboard,
    viewer::Viewer,
};

/// The most queues that one page shows.
const MAX_QUEUES: usize = 100;
/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// Looks without anything new after which something is said all the same: so a client that has gone is noticed.
const QUIET: u32 = 7;
/// What comes first: after how long to ask again where this broke off.
const FIRST: &str = "retry: 5000\n\n";

/// What one viewer is told.
struct Live {
    state: Dashboard,
    permit: ScopePermit<right::Any>,
    queues: Vec<QueueName>,
    /// What was told last of each queue.
    told: HashMap<QueueName, String>,
    /// When the last sample was taken that was told.
    sampled: i64,
    quiet: u32,
    is_first: bool,
    _place: Place,
}

/// A stream of figures of these queues.
pub(super) async fn events(
    State(state): State<Dashboard>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let form = Form::of_query(request.uri().query(), &["queue"])?;
    let names = form.all("queue").take(MAX_QUEUES).map(queue_name);
    let queues = names.collect::<Result<Vec<_>, _>>()?;
    let permit = ScopePermit::<right::Any>::new(viewer.caller)?;
    let place = state.shared().viewers.take(state.usage(&permit.call));
    let place = place.map_err(|exhausted| too_many(&state, exhausted))?;
    let sampled = queues.first().map_or(0, |queue| state.shared().history.of(queue.as_str()).1);
    let (told, quiet, is_first) = (HashMap::new(), 0, true);
    let live = Live { state, permit, queues, told, sampled, quiet, is_first, _place: place };
    let stream = stream::unfold(live, async |mut live| {
        let next = live.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(next)), live))
    });
    let kind = HeaderValue::from_static("text/event-stream");
    let mut response = ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response();
    // A proxy in front is not to collect it.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn too_many(state: &Dashboard, exhausted: Exhausted) -> Failure {
    let (limit, detail) = match exhausted {
        Exhausted::ForAll => (
            "max_viewers",
            "As many pages are kept up to date as `dashboard.max_viewers` says.".to_owned(),
        ),
        Exhausted::ForCaller(most) => (
            "key_max_viewers",
            format!(
                "{most} pages of this key are kept up to date, as many as `limits.max_share_per_key_percent` \
                 leaves it."
            ),
        ),
    };
    state.metrics.refused(limit);
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Failure::new(status, "overloaded", "Too many viewers", detail)
}

impl Live {
    /// What is told next; nothing once the gateway stops or the log-in is void.
    async fn next(&mut self) -> Option<String> {
        if std::mem::take(&mut self.is_first) {
            return Some(format!("{FIRST}{}", self.news()));
        }
        loop {
            tokio::select! {
                () = sleep(INTERVAL) => {}
                () = self.permit.broker.stops_waiting() => return None,
            }
            if !self.permit.caller.is_in_force() {
                return None;
            }
            let news = self.news();
            if !news.is_empty() {
                self.quiet = 0;
                return Some(news);
            }
            self.quiet += 1;
            if self.quiet >= QUIET {
                self.quiet = 0;
                return Some(": still here\n\n".to_owned());
            }
        }
    }

    /// What is different from what was told last.
    fn news(&mut self) -> String {
        let scope = self.permit.caller.scope(None);
        let mut rows = serde_json::Map::new();
        for queue in self.queues.iter().filter(|queue| scope.contains(queue.as_str())) {
            let row = Row::alone(&self.state, &self.permit.broker.overview_of(queue));
            let shown = json!({
                "visible": row.visible_shown(),
                "in_flight": row.in_flight_shown(),
                "delayed": row.delayed_shown(),
                "oldest": row.oldest(),
                "rates": row.rates(),
                "waiters": row.waiters.to_string(),
                "paused": row.paused,
            });
            let text = shown.to_string();
            if self.told.get(queue) != Some(&text) {
                self.told.insert(queue.clone(), text);
                rows.insert(queue.to_string(), shown);
            }
        }
        let mut news = String::new();
        if !rows.is_empty() {
            news = format!("event: figures\ndata: {}\n\n", serde_json::Value::Object(rows));
        }
        if let [queue] = &*self.queues
            && scope.contains(queue.as_str())
        {
            let (samples, at) = self.state.shared().history.of(queue.as_str());
            if let Some(sample) = samples.last().filter(|_| at > self.sampled) {
                self.sampled = at;
                let sample = sample_json(at, sample);
                // Into a string: this does not fail.
                let _ = write!(news, "event: sample\ndata: {sample}\n\n");
            }
        }
        news
    }
}

/// A sample as charts take it.
fn sample_json(at: i64, sample: &Sample) -> serde_json::Value {
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    let seconds = INTERVAL_SECONDS as f64;
    json!([
        at,
        sample.visible,
        sample.in_flight,
        f64::from(sample.sent) / seconds,
        f64::from(sample.done) / seconds,
    ])
}

/// The last hour of a queue, as charts take it.
pub(super) fn hour(samples: &[Sample], last: i64) -> String {
    let count = i64::try_from(samples.len()).unwrap_or(0);
    let rows = samples
        .iter()
        .zip(0..)
        .map(|(sample, place)| sample_json(last - (count - 1 - place) * INTERVAL_SECONDS, sample));
    serde_json::Value::Array(rows.collect()).to_string()
}
