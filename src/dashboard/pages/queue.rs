//! One queue, from memory.

use askama::Template;
use axum::{
    extract::{Path, State},
    response::Response,
};

use crate::{
    broker::{LaneLoad, QueueOverview},
    domain::QueueName,
    http::{QueuePermit, ScopePermit, right},
};

use super::{
    super::{
        chart::{Chart, charts},
        failure::Failure,
        frame::{Frame, html},
        overview::Row,
        place,
        state::Dashboard,
        tabs::{QueueHead, Tab},
        viewer::Viewer,
    },
    queue_name,
};

#[derive(Template)]
#[template(path = "queue.html")]
struct Page {
    frame: Frame,
    head: QueueHead,
    row: Row,
    charts: Vec<Chart>,
    /// What is in its lanes, where it is in use here.
    lanes: Vec<LaneLoad>,
    base: String,
    /// The settings that are known, in words.
    settings: Vec<(&'static str, String)>,
}

/// A queue's figures and charts.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let (frame, rights) = (viewer.frame.clone(), viewer.rights(queue.as_str()));
    let permit = QueuePermit::<right::Any>::new(viewer.caller, queue.clone())?;
    if state.shared().collects {
        permit.broker.refresh_changed_settings().await;
    } else {
        // Nobody else does, and what was known last may be old.
        permit.broker.refresh_settings(&queue).await;
    }
    let overview = permit.broker.overview_of(&queue);
    must_be_there(&permit, &queue, &overview).await?;
    let lanes = permit.broker.lane_loads(&queue);
    let scope = ScopePermit::<right::Any>::new(permit.caller)?;
    let mut row = Row::new(&state, &scope, &overview);
    row.draw(&state);
    let charts = charts(&state.shared().history.of(queue.as_str()).0);
    let head = QueueHead::new(&queue, Tab::Overview, rights, overview.paused);
    let settings = super::super::settings_text::known(&overview);
    Ok(html(&Page { frame, head, row, charts, lanes, base: place::base(), settings }))
}

/// Looks for a queue of which nothing is known in memory: it may be new.
async fn must_be_there(
    permit: &QueuePermit<right::Any>,
    queue: &QueueName,
    overview: &QueueOverview,
) -> Result<(), Failure> {
    if overview.known.figures.is_none() {
        permit.broker.show_queue(&permit.call, queue.clone()).await?;
    }
    Ok(())
}
