//! Making a queue.

use askama::Template;
use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};

use crate::{
    broker::NewQueue,
    domain::{Partition, QueueKind, QueueName, SettingsChange},
    http::{Caller, QueuePermit, ScopePermit, right},
};

use super::super::{
    actions::{Deed, Tally, audited},
    failure::Failure,
    form::Form,
    frame::{self, Frame, html},
    place,
    state::Dashboard,
    viewer::Viewer,
};

const FIELDS: [&str; 5] = ["name", "kind", "interval", "retention", "fifo"];
const MAX_FORM: u64 = 16 << 10;

#[derive(Template)]
#[template(path = "new_queue.html")]
struct Page {
    frame: Frame,
    name: String,
    kind: String,
    interval: String,
    retention: String,
    fifo: bool,
    error: Option<String>,
}

/// The form.
pub(in super::super) async fn show(viewer: Viewer) -> Result<Response, Failure> {
    viewer.must_act()?;
    let frame = viewer.frame.clone();
    ScopePermit::<right::Manage>::new(viewer.caller)?;
    Ok(html(&Page {
        frame,
        name: String::new(),
        kind: "standard".to_owned(),
        interval: String::new(),
        retention: String::new(),
        fifo: false,
        error: None,
    }))
}

/// Makes it.
pub(in super::super) async fn create(
    State(state): State<Dashboard>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let (frame, who) = (viewer.frame.clone(), viewer.caller.name().to_owned());
    let permit = ScopePermit::<right::Manage>::new(viewer.caller)?;
    let form = Form::read(request, &state, MAX_FORM, &FIELDS).await?;
    match make(permit.caller, &who, &form).await {
        Ok(queue) => Ok(place::lead_to(&place::queue(queue.as_str()))),
        Err(failure) if failure.is_clients() => {
            let page = Page {
                frame,
                name: form.raw("name").to_owned(),
                kind: form.raw("kind").to_owned(),
                interval: form.raw("interval").to_owned(),
                retention: form.raw("retention").to_owned(),
                fifo: form.get("fifo").is_some(),
                error: Some(failure.detail().to_owned()),
            };
            Ok(frame::refused(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", &page))
        }
        Err(failure) => Err(failure),
    }
}

async fn make(caller: Caller, who: &str, form: &Form) -> Result<QueueName, Failure> {
    let name = form.get("name").unwrap_or_default();
    let queue = QueueName::parse(name)
        .map_err(|reason| Failure::invalid(format!("The name: {reason}.")))?;
    let permit = QueuePermit::<right::Manage>::new(caller, queue.clone())?;
    let kind = match form.get("kind") {
        None | Some("standard") => QueueKind::Standard,
        Some("unlogged") => QueueKind::Unlogged,
        Some("partitioned") => QueueKind::Partitioned,
        Some(other) => {
            return Err(Failure::invalid(format!(
                "A queue is `standard`, `unlogged` or `partitioned`, not `{other}`."
            )));
        }
    };
    let (interval, retention) = (form.get("interval"), form.get("retention"));
    let default = Partition::default();
    let partition = (interval.is_some() || retention.is_some()).then(|| {
        let interval = interval.unwrap_or(default.interval());
        Partition::new(interval, retention.unwrap_or(default.retention()))
    });
    let new = NewQueue {
        queue: queue.clone(),
        kind,
        partition: partition.transpose().map_err(Failure::invalid)?,
        fifo: Some(form.get("fifo").is_some()),
        settings: SettingsChange::default(),
        beside: None,
    };
    let deed = Deed::new(who, "create", queue.as_str());
    let (broker, call) = (permit.broker, permit.call);
    let work = broker.clone();
    let work = async move {
        if work.create_queue(&call, new).await?.created {
            return Ok(queue);
        }
        Err(Failure::conflict(format!(
            "There is a queue `{queue}` already, of this kind. Nothing was changed."
        )))
    };
    audited(&broker, deed, |_| Tally::default(), Box::pin(work)).await
}
