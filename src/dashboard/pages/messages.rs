//! Messages of a queue, by their state.

use std::time::{Duration, Instant};

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    response::Response,
};
use chrono::{DateTime, Utc};

use crate::{
    broker::{BrowseMessages, Browsed, ListedMessage},
    domain::{MsgId, QueueName, Right},
    http::{QueuePermit, right},
};

use super::{
    super::{
        actions::Action,
        failure::Failure,
        form::Form,
        frame::{Frame, long_html},
        place,
        search::{FIELDS, List, Place, Search, read_position, write_position},
        state::Dashboard,
        tabs::{QueueHead, Tab},
        text,
        viewer::Viewer,
    },
    act::may,
    queue_name,
};

/// Messages on a page.
const PAGE: i32 = 50;
/// Looks, and time, after which a page has what it has.
const MOST_LOOKS: usize = 10;
const TIME: Duration = Duration::from_secs(2);
/// Characters of a message in a list.
const BEGINNING: usize = 160;

#[derive(Template)]
#[template(path = "messages.html")]
struct Page {
    frame: Frame,
    head: QueueHead,
    list: List,
    /// The queue where they are, which is to be the same when something is done to them.
    at: String,
    lists: Vec<ListLink>,
    search: Search,
    rows: Vec<Row>,
    is_archive: bool,
    /// What may be done to them.
    actions: Vec<Action>,
    next: Option<String>,
    /// Whether there may be more of them than are shown, as not all of the list was looked at.
    is_unfinished: bool,
    /// Whether this page begins at the beginning.
    is_first: bool,
    /// What to send, where there is nothing.
    base: String,
}

struct ListLink {
    title: &'static str,
    href: String,
    is_here: bool,
    count: Option<String>,
}

/// A message in the list.
struct Row {
    id: i64,
    href: String,
    stored: String,
    stored_exactly: String,
    read_ct: i32,
    state: String,
    content: Option<String>,
    size: String,
    headers: Option<String>,
    /// Whether they are large.
    headers_left_out: bool,
}

/// A page of a list.
pub(in super::super) async fn list(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let known: Vec<&str> = FIELDS.into_iter().chain(["list", "after", "id"]).collect();
    let form = Form::of_query(request.uri().query(), &known)?;
    let list = List::parse(form.get("list"))?;
    if let Some(id) = form.parsed::<MsgId>("id")? {
        return Ok(place::lead_to(&format!("{}/messages/{id}", place::queue(&name))));
    }
    let search = Search::of(&form)?;
    let after = read_position(&form, "after")?;
    let (frame, rights) = (viewer.frame.clone(), viewer.rights(queue.as_str()));
    let permit = QueuePermit::<right::Receive>::new(viewer.caller, queue.clone())?;
    permit.broker.refresh_settings(&queue).await;
    let overview = permit.broker.overview_of(&queue);
    let dead_letters = overview.dead_letters();
    let at = Place::of(list, &queue, dead_letters);
    let lists = links(&name, list, &permit, dead_letters, &state);
    let permit = QueuePermit::<right::Receive>::new(permit.caller, at.queue.clone())?;
    let what = BrowseMessages {
        queue: at.queue.clone(),
        search: search.within(&at),
        after,
        limit: PAGE,
        ids_only: false,
    };
    let found = find(&permit, what).await?;
    let now = permit.broker.now();
    let rows: Vec<Row> = found.messages.iter().map(|message| Row::new(message, &at, now)).collect();
    let next = found.next.map(|next| {
        let mut fields = vec![("list", list.word().to_owned())];
        fields.extend(search.fields());
        fields.push(("after", write_position(next)));
        let fields = serde_urlencoded::to_string(fields).unwrap_or_default();
        format!("{}/messages?{fields}", place::queue(&name))
    });
    let page = Page {
        head: QueueHead::new(&queue, Tab::Messages, rights, overview.paused),
        actions: actions(&permit, list, &at, &frame),
        is_archive: at.is_archive(),
        at: at.queue.to_string(),
        is_first: after.is_none(),
        is_unfinished: next.is_some() && rows.len() < PAGE as usize,
        base: place::base(),
        frame,
        list,
        lists,
        search,
        rows,
        next,
    };
    Ok(long_html(&state, &permit.call, &page)?)
}

/// Looks on where few are found, for as long as somebody waits for a page.
async fn find(
    permit: &QueuePermit<right::Receive>,
    mut what: BrowseMessages,
) -> Result<Browsed, Failure> {
    let begun = Instant::now();
    let mut found = permit.broker.browse_messages(&permit.call, what.clone()).await?;
    for _ in 1..MOST_LOOKS {
        what.after = found.next;
        what.limit = PAGE - i32::try_from(found.messages.len()).unwrap_or(PAGE);
        if what.after.is_none() || what.limit <= 0 || begun.elapsed() >= TIME {
            break;
        }
        // What was found is shown though the next look fails.
        let Ok(more) = permit.broker.browse_messages(&permit.call, what.clone()).await else {
            break;
        };
        found.messages.extend(more.messages);
        found.next = more.next;
    }
    Ok(found)
}

/// What somebody may do to the messages of a list.
fn actions(
    permit: &QueuePermit<right::Receive>,
    list: List,
    at: &Place,
    frame: &Frame,
) -> Vec<Action> {
    let of_list: &[Action] = match list {
        _ if frame.read_only => &[],
        _ if at.is_archive() => &[Action::Replay],
        List::Waiting if permit.broker.takes_dead_letters(&at.queue) => {
            &[Action::Redrive, Action::Archive, Action::Delete]
        }
        List::Waiting => &[Action::Archive, Action::Delete],
        List::Dead => &[Action::Redrive, Action::Archive, Action::Delete],
        _ => &[Action::GiveBack, Action::Archive, Action::Delete],
    };
    let may = |action: &&Action| may(&permit.caller, **action, at.queue.as_str());
    of_list.iter().filter(may).copied().collect()
}

/// The lists that somebody may see, with how many messages are in each as far as that is known.
fn links(
    name: &str,
    here: List,
    permit: &QueuePermit<right::Receive>,
    dead_letters: Option<&QueueName>,
    state: &Dashboard,
) -> Vec<ListLink> {
    let may_see_dead =
        dead_letters.is_none_or(|dead| permit.caller.may(Some(Right::Receive), dead.as_str()));
    let row = super::super::overview::Row::alone(state, &permit.broker.overview_of(&permit.queue));
    let count = |list| match list {
        List::Waiting => Some(row.visible_shown()),
        List::InFlight => Some(row.in_flight_shown()),
        List::Delayed => Some(row.delayed_shown()),
        List::All | List::Archived | List::Dead => None,
    };
    let shown = List::ALL.into_iter().filter(|list| *list != List::Dead || may_see_dead);
    let link = |list: List| ListLink {
        title: list.title(),
        href: format!("{}/messages?list={}", place::queue(name), list.word()),
        is_here: list == here,
        count: count(list),
    };
    shown.map(link).collect()
}

impl Row {
    fn new(message: &ListedMessage, at: &Place, now: DateTime<Utc>) -> Self {
        let from = if at.is_archive() { "?from=archive" } else { "" };
        let href = format!("{}/messages/{}{from}", place::queue(at.queue.as_str()), message.msg_id);
        Self {
            id: message.msg_id,
            href,
            stored: text::ago(message.enqueued_at, now),
            stored_exactly: text::exact(message.enqueued_at),
            read_ct: message.read_ct,
            state: state(message, now),
            content: message.message.as_ref().map(|json| text::beginning(json.get(), BEGINNING)),
            size: text::bytes(message.bytes),
            headers: message.headers.as_ref().map(|json| text::beginning(json.get(), BEGINNING)),
            headers_left_out: message.headers.is_none() && message.has_headers,
        }
    }
}

/// What a message waits for.
fn state(message: &ListedMessage, now: DateTime<Utc>) -> String {
    if let Some(at) = message.archived_at {
        return format!("archived {}", text::ago(at, now));
    }
    if message.vt <= now {
        return format!("waiting for {}", text::duration((now - message.vt).num_seconds()));
    }
    let left = text::duration((message.vt - now).num_seconds());
    if message.read_ct > 0 { format!("in flight, {left} left") } else { format!("due in {left}") }
}
