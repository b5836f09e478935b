//! The last hour of a queue, for charts.

use axum::{
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};

use crate::http::{QueuePermit, right};

use super::{
    super::{failure::Failure, live::hour, state::Dashboard, viewer::Viewer},
    queue_name,
};

/// From memory; of which nothing is known there, it is asked whether it is there.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let permit = QueuePermit::<right::Any>::new(viewer.caller, queue)?;
    let (samples, last) = state.shared().history.of(permit.queue.as_str());
    if samples.is_empty() && !permit.broker.knows(&permit.queue) {
        permit.broker.check_exists(&permit.call, &permit.queue).await?;
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], hour(&samples, last)).into_response())
}
