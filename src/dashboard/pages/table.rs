//! What the database says of a queue: its kind, its table, and its bindings.

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    response::Response,
};

use crate::{
    broker::{Binding, CleanupHolder, Error, TableHealth},
    domain::Scope,
    http::{QueuePermit, right},
};

use super::{
    super::{
        actions::{Deed, Tally, audited},
        failure::Failure,
        form::Form,
        frame::{Frame, long_html},
        place,
        state::Dashboard,
        tabs::{QueueHead, Tab},
        text,
        viewer::{Viewer, rights},
    },
    queue_name,
};

const MAX_FORM: u64 = 16 << 10;
/// Bindings that are shown; a queue has fewer, unless SQL made them.
const MOST_BINDINGS: usize = 500;

#[derive(Template)]
#[template(path = "table.html")]
struct Page {
    frame: Frame,
    head: QueueHead,
    facts: Vec<(&'static str, String)>,
    holders: Vec<Holder>,
    /// Those that are bound; nothing where PGMQ has no topics.
    bindings: Option<Vec<Binding>>,
    /// Whether there are more.
    is_cut: bool,
    /// Whether policies of the database hide messages.
    row_security: bool,
    /// Whether the dead-letter queue is not there any more.
    dead_letters_missing: bool,
}

struct Holder {
    kind: String,
    name: String,
    state: String,
    transactions: String,
    since: String,
}

/// Asks the database.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let frame = viewer.frame.clone();
    let permit = QueuePermit::<right::Any>::new(viewer.caller, queue.clone())?;
    let (broker, call) = (&permit.broker, &permit.call);
    let there = broker.show_queue(call, queue.clone()).await?;
    let (health, holders) = broker.table_health(call, queue.clone()).await?;
    let bindings = match broker.bindings(call, Some(queue.clone()), Scope::ALL).await {
        Ok(found) => Some(found.listed),
        Err(Error::NotSupported(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let is_cut = bindings.as_ref().is_some_and(|all| all.len() > MOST_BINDINGS);
    let bindings = bindings.map(|all| all.into_iter().take(MOST_BINDINGS).collect());
    let now = broker.now();
    let mut facts = vec![
        ("Kind", there.kind.to_string()),
        ("Made", text::moment(there.created_at)),
        ("Groups in order", if there.fifo { "yes" } else { "no" }.to_owned()),
    ];
    facts.extend(of_table(&health, now));
    let rights = rights(&permit.caller, &name, frame.read_only);
    // Whose sessions these are concerns those who run the gateway.
    let holders = if frame.is_operator { holders } else { Vec::new() };
    let holders = holders.into_iter().map(|holder| Holder::new(holder, now)).collect();
    let page = Page {
        head: QueueHead::new(&queue, Tab::Table, rights, there.settings.paused),
        row_security: there.row_security,
        dead_letters_missing: there.dead_letter_queue_missing,
        frame,
        facts,
        holders,
        bindings,
        is_cut,
    };
    Ok(long_html(&state, &permit.call, &page)?)
}

fn of_table(
    health: &TableHealth,
    now: chrono::DateTime<chrono::Utc>,
) -> Vec<(&'static str, String)> {
    let about = |count: Option<i64>| {
        count
            .map_or_else(|| "not known".to_owned(), |count| format!("about {}", text::count(count)))
    };
    let size = |bytes: Option<i64>| bytes.map_or_else(|| "not known".to_owned(), text::bytes);
    let when = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map_or_else(|| "never".to_owned(), |at| text::ago(at, now))
    };
    vec![
        ("Rows", about(health.live_rows)),
        ("Dead rows", about(health.dead_rows)),
        ("Last vacuum", when(health.last_vacuum)),
        ("Vacuums", about(health.vacuums).replace("about ", "")),
        ("Last analysed", when(health.last_analyze)),
        ("Size with indexes", size(health.total_bytes)),
        ("Size of the archive", size(health.archive_bytes)),
    ]
}

impl Holder {
    fn new(holder: CleanupHolder, now: chrono::DateTime<chrono::Utc>) -> Self {
        Self {
            kind: holder.kind,
            name: holder.name,
            state: holder.state.unwrap_or_default(),
            transactions: text::count(holder.transactions),
            since: holder.since.map_or_else(|| "–".to_owned(), |since| text::ago(since, now)),
        }
    }
}

/// Binds the queue to a pattern, or ends that.
pub(in super::super) async fn bind(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let who = viewer.caller.name().to_owned();
    let permit = QueuePermit::<right::Manage>::new(viewer.caller, queue.clone())?;
    let form = Form::read(request, &state, MAX_FORM, &["action", "pattern"]).await?;
    let pattern = form.get("pattern");
    let pattern =
        pattern.ok_or_else(|| Failure::invalid("A pattern is needed, such as `orders.#`."))?;
    let action = form.get("action").unwrap_or_default();
    let action = match action {
        "bind" => "bind",
        "unbind" => "unbind",
        _ => return Err(Failure::invalid("`action` must be `bind` or `unbind`.")),
    };
    let deed = Deed::new(&who, action, queue.as_str());
    let (broker, call, pattern) = (permit.broker, permit.call, pattern.to_owned());
    let work = broker.clone();
    let work = async move {
        match action {
            "bind" => drop(work.bind(&call, queue, pattern).await?),
            _ => work.unbind(&call, queue, pattern).await?,
        }
        Ok(())
    };
    audited(&broker, deed, |()| Tally::default(), Box::pin(work)).await?;
    Ok(place::lead_to(&format!("{}/table", place::queue(&name))))
}
