//! Changing the settings of a queue: first what would change, then the change.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    http::StatusCode,
    response::Response,
};

use crate::{
    broker::QueueChange,
    domain::{Queue, QueueName},
    http::{Caller, QueuePermit, right},
};

use super::{
    super::{
        actions::{Deed, Tally, audited},
        failure::Failure,
        form::Form,
        frame::{self, Frame, html},
        settings_form::{FIELDS, Field, changes, current, read, stamp},
        state::Dashboard,
        tabs::{QueueHead, Tab},
        viewer::{Viewer, rights},
    },
    queue_name,
};

const MAX_FORM: u64 = 32 << 10;

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    frame: Frame,
    head: QueueHead,
    fields: Vec<Field>,
    fifo: bool,
    is_partitioned: bool,
    kind: String,
    /// What was just changed.
    changed: bool,
}

#[derive(Template)]
#[template(path = "settings_confirm.html")]
struct Confirm {
    frame: Frame,
    head: QueueHead,
    /// What, as it is, and as it would be.
    changes: Vec<(String, String, String)>,
    fields: Vec<(String, String)>,
    /// Whether something else was set since the one before this was shown.
    is_stale: bool,
}

/// The form, with what is set now.
pub(in super::super) async fn show(
    Path(name): Path<String>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    viewer.must_act()?;
    let frame = viewer.frame.clone();
    let permit = QueuePermit::<right::Manage>::new(viewer.caller, queue.clone())?;
    let there = permit.broker.show_queue(&permit.call, queue.clone()).await?;
    Ok(html(&page(frame, &permit.caller, &queue, &there, false)))
}

fn page(frame: Frame, caller: &Caller, queue: &QueueName, there: &Queue, changed: bool) -> Page {
    let rights = rights(caller, queue.as_str(), frame.read_only);
    Page {
        head: QueueHead::new(queue, Tab::Settings, rights, there.settings.paused),
        fields: current(&there.settings),
        fifo: there.fifo,
        is_partitioned: there.kind == crate::domain::QueueKind::Partitioned,
        kind: there.kind.to_string(),
        changed,
        frame,
    }
}

/// Says what would change or, once that is confirmed, changes it.
pub(in super::super) async fn change(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let (frame, who) = (viewer.frame.clone(), viewer.caller.name().to_owned());
    let permit = QueuePermit::<right::Manage>::new(viewer.caller, queue.clone())?;
    let known: Vec<&str> =
        FIELDS.iter().map(|(name, ..)| *name).chain(["fifo", "as_of", "confirmed"]).collect();
    let form = Form::read(request, &state, MAX_FORM, &known).await?;
    let settings = read(&form)?;
    let there = permit.broker.show_queue(&permit.call, queue.clone()).await?;
    let wanted_fifo = form.get("fifo").is_some();
    let (settings, listed) = changes(&there, settings, wanted_fifo);
    // Of what changes alone: the form says all of it, and to leave a dead-letter queue as it is takes no right.
    permit.caller.authorize_dead_letter_target(&queue, &settings)?;
    let fifo = (wanted_fifo != there.fifo).then_some(wanted_fifo);
    let as_of = stamp(&there);
    let is_confirmed = form.get("confirmed").is_some();
    let is_stale = is_confirmed && form.get("as_of") != Some(&*as_of);
    if !is_confirmed || is_stale {
        let rights = rights(&permit.caller, &name, frame.read_only);
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, ..) in FIELDS {
            fields.push((name.to_owned(), form.raw(name).to_owned()));
        }
        fields.extend(wanted_fifo.then(|| ("fifo".to_owned(), "1".to_owned())));
        fields.push(("as_of".to_owned(), as_of));
        let head = QueueHead::new(&queue, Tab::Settings, rights, there.settings.paused);
        let page = Confirm { frame, head, changes: listed, fields, is_stale };
        if is_stale {
            return Ok(frame::refused(StatusCode::CONFLICT, "conflict", &page));
        }
        return Ok(html(&page));
    }
    let change = QueueChange { settings, fifo, beside: None };
    let deed = Deed::new(&who, "change settings", queue.as_str());
    let (work, call, of) = (permit.broker.clone(), Arc::clone(&permit.call), queue.clone());
    let work = async move {
        let changed = work.change_queue(&call, of.clone(), change).await?;
        work.refresh_settings(&of).await;
        Ok(changed)
    };
    let changed = audited(&permit.broker, deed, |_| Tally::default(), Box::pin(work)).await?;
    Ok(html(&page(frame, &permit.caller, &queue, &changed, true)))
}
