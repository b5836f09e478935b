//! Changing the settings of a queue: first what would change, then the change.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    response::Response,
};

use crate::{
    broker::QueueChange,
    domain::{Queue, QueueName, Right, SettingsChange},
    http::{Caller, QueuePermit, right},
};

use super::{
    super::{
        actions::{Deed, Tally, audited},
        failure::Failure,
        form::Form,
        frame::{Frame, html},
        settings_form::{FIELDS, Field, changes, current, read},
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
}

/// The form, with what is set now.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    if state.shared().read_only {
        return Err(Failure::read_only());
    }
    let frame = viewer.frame.clone();
    let permit = QueuePermit::<right::Manage>::new(viewer.caller, queue.clone())?;
    let there = permit.broker.show_queue(&permit.stats, queue.clone()).await?;
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
    if state.shared().read_only {
        return Err(Failure::read_only());
    }
    let (frame, who) = (viewer.frame.clone(), viewer.caller.name().to_owned());
    let permit = QueuePermit::<right::Manage>::new(viewer.caller, queue.clone())?;
    let known: Vec<&str> =
        FIELDS.iter().map(|(name, ..)| *name).chain(["fifo", "confirmed"]).collect();
    let form = Form::read(request, &state, MAX_FORM, &known).await?;
    let settings = read(&form)?;
    authorize_dead_letter_target(&permit.caller, &queue, &settings)?;
    let there = permit.broker.show_queue(&permit.stats, queue.clone()).await?;
    let wanted_fifo = form.get("fifo").is_some();
    let (settings, listed) = changes(&there, settings, wanted_fifo);
    let fifo = (wanted_fifo != there.fifo).then_some(wanted_fifo);
    if form.get("confirmed").is_none() {
        let rights = rights(&permit.caller, &name, frame.read_only);
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, ..) in FIELDS {
            fields.push((name.to_owned(), form.raw(name).to_owned()));
        }
        fields.extend(wanted_fifo.then(|| ("fifo".to_owned(), "1".to_owned())));
        let head = QueueHead::new(&queue, Tab::Settings, rights, there.settings.paused);
        return Ok(html(&Confirm { frame, head, changes: listed, fields }));
    }
    let change = QueueChange { settings, fifo };
    let deed = Deed::new(&who, "change settings", queue.as_str());
    let (work, stats, of) = (permit.broker.clone(), Arc::clone(&permit.stats), queue.clone());
    let work = async move {
        let changed = work.change_queue(&stats, of, change).await?;
        work.refresh_settings().await;
        Ok(changed)
    };
    let changed = audited(&permit.broker, deed, |_| Tally::default(), Box::pin(work)).await?;
    Ok(html(&page(frame, &permit.caller, &queue, &changed, true)))
}

/// Dead letters can be read where they go, and so only those name another place who may read them here, and send
/// there.
pub(in super::super) fn authorize_dead_letter_target(
    caller: &Caller,
    queue: &QueueName,
    settings: &SettingsChange,
) -> Result<(), Failure> {
    let Some(target) = settings.dead_letter_queue.as_ref().and_then(Option::as_ref) else {
        return Ok(());
    };
    caller.require(Some(Right::Receive), queue)?;
    Ok(caller.require(Some(Right::Send), &target.0)?)
}
