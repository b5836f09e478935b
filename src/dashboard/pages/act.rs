//! Doing something: a page that says what will be done and to how many, and what was done.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::{Path, Request, State},
    response::Response,
};

use chrono::{DateTime, Utc};

use crate::{
    broker::{Broker, MessageSearch},
    domain::{Call, MsgId, QueueName, Right},
    http::{Caller, QueuePermit, right},
};

use super::{
    super::{
        actions::{
            Action, Count, Deed, Messages, Outcome, QueueAction, Sweep, Tally, Work, audited,
            count, perform, perform_on_queue,
        },
        failure::Failure,
        form::Form,
        frame::{Frame, html, long_html},
        place,
        search::{FIELDS, List, Place, Search, read_position, write_position},
        state::Dashboard,
        tabs::{QueueHead, Tab},
        text,
        viewer::{Viewer, rights},
    },
    queue_name,
};

/// The most messages that are chosen one by one.
const MAX_IDS: usize = 1_000;
/// The most bytes of the form.
const MAX_FORM: u64 = 256 << 10;
/// The most messages that are given back where a form does not say how many there were.
const MOST_GIVEN_BACK: u32 = 10_000;

#[derive(Template)]
#[template(path = "confirm.html")]
struct Confirm {
    frame: Frame,
    head: QueueHead,
    title: String,
    /// To how many it will be done.
    touches: String,
    consequence: &'static str,
    button: &'static str,
    /// What the form repeats.
    fields: Fields,
    /// Whether the queue's name is to be typed.
    is_final: bool,
    /// Whether it can be dropped though others need it.
    may_force: bool,
    /// Whether there is nothing to do it to.
    is_empty: bool,
    back: String,
}

#[derive(Template)]
#[template(path = "done.html")]
struct Done {
    frame: Frame,
    head: Option<QueueHead>,
    title: String,
    said: String,
    /// What goes on where there are more.
    more: Fields,
    action_href: String,
    button: &'static str,
    back: String,
}

/// What a form repeats, hidden.
type Fields = Vec<(&'static str, String)>;

/// What is to be done.
enum Command {
    ToMessages(Action, List, Place, Messages, Fields),
    ToQueue(QueueAction),
}

fn known() -> Vec<&'static str> {
    let own = ["action", "list", "at", "ids", "all", "last", "after", "left", "name", "force"];
    FIELDS.into_iter().chain(own).collect()
}

/// Says what would be done.
pub(in super::super) async fn preview(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    viewer.must_act()?;
    let form = Form::of_query(request.uri().query(), &known())?;
    let (frame, rights) = (viewer.frame.clone(), viewer.rights(&name));
    let allowed = begin(&state, viewer.caller, &queue, &form).await?;
    let overview = allowed.broker.overview_of(&queue);
    let tab = match &allowed.command {
        Command::ToMessages(..) => Tab::Messages,
        Command::ToQueue(_) => Tab::Overview,
    };
    let head = QueueHead::new(&queue, tab, rights, overview.paused);
    let page = match &allowed.command {
        Command::ToMessages(action, list, at, messages, fields) => {
            let count = count(&allowed.work(&at.queue), messages).await?;
            let mut fields = fields.clone();
            if *action == Action::GiveBack && matches!(messages, Messages::Found(_)) {
                set(&mut fields, "left", count.number.to_string());
            }
            Confirm {
                title: format!("{} messages of {}", action.title(), at.queue),
                touches: counted(count),
                consequence: action.consequence(),
                button: action.title(),
                fields,
                is_final: false,
                may_force: false,
                is_empty: count.number == 0 && !count.is_more,
                back: format!("{}/messages?list={}", place::queue(&name), list.word()),
                frame,
                head,
            }
        }
        Command::ToQueue(action) => Confirm {
            title: format!("{} {name}", action.title()),
            touches: touched(&allowed, &queue, *action).await?,
            consequence: action.consequence(),
            button: action.title(),
            fields: vec![("action", action.word().to_owned())],
            is_final: action.is_final(),
            may_force: *action == QueueAction::Drop,
            is_empty: false,
            back: place::queue(&name),
            frame,
            head,
        },
    };
    Ok(long_html(&state, &allowed.call, &page)?)
}

/// How many messages an action touches, and whether all were looked at.
fn counted(count: Count) -> String {
    let number = text::counted(count.number, "message", "messages");
    match (count.is_more, count.number) {
        (false, _) => format!("{number}."),
        (true, 0) => "None so far: not all of the list was looked at.".to_owned(),
        (true, _) => format!("At least {number}."),
    }
}

/// How many messages an action on a queue touches.
async fn touched(
    allowed: &Allowed,
    queue: &QueueName,
    action: QueueAction,
) -> Result<String, Failure> {
    if !action.is_final() {
        return Ok("No message is touched.".to_owned());
    }
    // Counting a long queue takes long.
    let known = allowed.broker.overview_of(queue).known.figures;
    if let Some(figures) = known.filter(|figures| figures.length > allowed.count_limit) {
        return Ok(format!("About {} messages.", text::count(figures.length)));
    }
    let counts = allowed.broker.message_counts(&allowed.call, queue).await?;
    let number = text::counted(counts.length, "message", "messages");
    Ok(if counts.is_exact { format!("{number}.") } else { format!("About {number}.") })
}

/// Does it, and says what was done.
pub(in super::super) async fn act(
    State(state): State<Dashboard>,
    Path(name): Path<String>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let queue = queue_name(&name)?;
    let (frame, who) = (viewer.frame.clone(), viewer.caller.name().to_owned());
    // Before the body is read, so that whoever may not has nothing read.
    let permit = QueuePermit::<right::Any>::new(viewer.caller, queue.clone())?;
    let form = Form::read(request, &state, MAX_FORM, &known()).await?;
    let allowed = Arc::new(begin(&state, permit.caller, &queue, &form).await?);
    let rights = rights(&allowed.caller, &name, frame.read_only);
    let (title, said, more, button, back) = match &allowed.command {
        Command::ToMessages(action, list, at, _, fields) => {
            let outcome = on_messages(&allowed, &who, *action, &at.queue).await?;
            let more = outcome.next.map(|(next, left)| {
                let mut fields = fields.clone();
                set(&mut fields, "after", write_position(next));
                if *action == Action::GiveBack {
                    set(&mut fields, "left", left.max(0).to_string());
                }
                fields
            });
            let title = format!("{} messages of {}", action.title(), at.queue);
            let back = format!("{}/messages?list={}", place::queue(&name), list.word());
            (title, outcome.said(*action), more.unwrap_or_default(), action.title(), back)
        }
        Command::ToQueue(action) => {
            if action.is_final() && form.get("name") != Some(&*name) {
                return Err(Failure::invalid(format!(
                    "Nothing was done: type the name of the queue, `{name}`, to confirm it."
                )));
            }
            let forced = form.get("force").is_some();
            let (said, _) = on_queue(&allowed, &who, *action, &queue, forced).await?;
            let is_gone = *action == QueueAction::Drop;
            let back = if is_gone { place::root() } else { place::queue(&name) };
            (action.title().to_owned(), said, Vec::new(), action.title(), back)
        }
    };
    let is_paused = allowed.broker.overview_of(&queue).paused;
    let is_gone = matches!(allowed.command, Command::ToQueue(QueueAction::Drop));
    let head = QueueHead::new(&queue, Tab::Messages, rights, is_paused);
    let (head, action_href) = ((!is_gone).then_some(head), format!("{}/do", place::queue(&name)));
    Ok(html(&Done { frame, head, title, said, more, action_href, button, back }))
}

/// Does it to messages, and notes it.
async fn on_messages(
    allowed: &Arc<Allowed>,
    who: &str,
    action: Action,
    at: &QueueName,
) -> Result<Outcome, Failure> {
    let deed = Deed::new(who, action.word(), at.as_str());
    let work = Arc::clone(allowed);
    let work = async move {
        let Command::ToMessages(action, _, at, messages, _) = &work.command else {
            return Ok(Outcome::default());
        };
        perform(&work.work(&at.queue), *action, messages.clone()).await
    };
    audited(&allowed.broker, deed, Outcome::tally, Box::pin(work)).await
}

/// Does it to the queue, and notes it.
async fn on_queue(
    allowed: &Arc<Allowed>,
    who: &str,
    action: QueueAction,
    queue: &QueueName,
    forced: bool,
) -> Result<(String, Option<i64>), Failure> {
    let deed = Deed::new(who, action.word(), queue.as_str());
    let (work, queue) = (Arc::clone(allowed), queue.clone());
    let work =
        async move { perform_on_queue(&work.broker, &work.call, &queue, action, forced).await };
    let tally = |(_, done): &(String, Option<i64>)| Tally { done: *done, ..Tally::default() };
    audited(&allowed.broker, deed, tally, Box::pin(work)).await
}

/// Has a form repeat this.
fn set(fields: &mut Fields, name: &'static str, value: String) {
    fields.retain(|(known, _)| *known != name);
    fields.push((name, value));
}

/// Somebody who may do what they ask for.
struct Allowed {
    command: Command,
    broker: Broker,
    call: Arc<Call>,
    caller: Caller,
    count_limit: i64,
}

impl Allowed {
    fn work<'a>(&'a self, queue: &'a QueueName) -> Work<'a> {
        Work { broker: &self.broker, call: &self.call, caller: &self.caller, queue }
    }
}

/// Reads a command, and refuses those who may not give it.
async fn begin(
    state: &Dashboard,
    caller: Caller,
    queue: &QueueName,
    form: &Form,
) -> Result<Allowed, Failure> {
    let word = form.get("action").unwrap_or_default();
    let count_limit = state.shared().count_limit;
    if let Some(action) = QueueAction::parse(word) {
        let QueuePermit { broker, call, caller, .. } =
            QueuePermit::<right::Manage>::new(caller, queue.clone())?;
        return Ok(Allowed {
            command: Command::ToQueue(action),
            broker,
            call,
            caller,
            count_limit,
        });
    }
    let action = Action::parse(word)
        .ok_or_else(|| Failure::invalid(format!("There is no action `{word}`.")))?;
    let permit = QueuePermit::<right::Any>::new(caller, queue.clone())?;
    let list = List::parse(form.get("list"))?;
    permit.broker.refresh_settings(queue).await;
    let at = Place::of(list, queue, permit.broker.overview_of(queue).dead_letters());
    for right in action.rights() {
        permit.caller.require(Some(*right), &at.queue)?;
    }
    if let Some(seen) = form.get("at").filter(|seen| *seen != at.queue.as_str()) {
        return Err(Failure::conflict(format!(
            "Nothing was done: these messages were listed where they are in queue `{seen}`, and that list is now \
             about queue `{}`. Look at it again.",
            at.queue
        )));
    }
    if at.is_archive() != action.is_of_archive() {
        let where_they_are = if at.is_archive() { "archived" } else { "in a queue" };
        return Err(Failure::invalid(format!(
            "`{word}` is not for messages that are {where_they_are}."
        )));
    }
    let QueuePermit { broker, call, caller, .. } =
        QueuePermit::<right::Receive>::new(permit.caller, at.queue.clone())?;
    let last_id = last_id(&broker, &call, form, &at).await?;
    let (messages, fields) = meant(form, action, list, &at, (broker.now(), last_id))?;
    let command = Command::ToMessages(action, list, at, messages, fields);
    Ok(Allowed { command, broker, call, caller, count_limit })
}

/// The last id that was there when the number was first shown: what dies later was stored before that. None of an
/// archive, where times are those at which messages came there.
async fn last_id(
    broker: &Broker,
    call: &Arc<Call>,
    form: &Form,
    at: &Place,
) -> Result<Option<i64>, Failure> {
    if form.get("all").is_none() || at.is_archive() {
        return Ok(None);
    }
    Ok(Some(match form.parsed::<i64>("last")? {
        Some(last) => last,
        None => broker.last_id(call, at.queue.clone()).await?,
    }))
}

/// Which messages are meant, of those that were there `now` and up to an id, and how a form repeats it.
fn meant(
    form: &Form,
    action: Action,
    list: List,
    at: &Place,
    (now, last_id): (DateTime<Utc>, Option<i64>),
) -> Result<(Messages, Fields), Failure> {
    let mut fields = vec![
        ("action", action.word().to_owned()),
        ("list", list.word().to_owned()),
        ("at", at.queue.to_string()),
    ];
    if form.get("all").is_some() {
        // What comes later, or came of the action itself, is not meant.
        let search = Search::of(form)?.bounded_by(now);
        fields.push(("all", "1".to_owned()));
        fields.extend(search.fields());
        fields.extend(last_id.map(|id| ("last", id.to_string())));
        let search = MessageSearch { last_id, ..search.within(at) };
        let after = read_position(form, "after")?;
        fields.extend(after.map(|after| ("after", write_position(after))));
        let left = form.get("left").map(str::parse::<u32>).transpose().map_err(|_| {
            Failure::invalid("`left` is what the page before this one gave: a number.")
        })?;
        let left = left.unwrap_or(MOST_GIVEN_BACK).into();
        return Ok((Messages::Found(Sweep { search, after, left }), fields));
    }
    let mut ids = Vec::new();
    for id in form.all("ids") {
        let id: MsgId =
            id.parse().map_err(|reason| Failure::invalid(format!("`ids`: an id {reason}.")))?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Err(Failure::invalid("No message is chosen: mark some in the list first."));
    }
    if ids.len() > MAX_IDS {
        return Err(Failure::invalid(format!("At most {MAX_IDS} messages can be chosen.")));
    }
    fields.extend(ids.iter().map(|id| ("ids", id.to_string())));
    Ok((Messages::These(ids), fields))
}

/// Whether somebody may do this to messages of a queue.
pub(in super::super) fn may(caller: &Caller, action: Action, queue: &str) -> bool {
    action.rights().iter().all(|right: &Right| caller.may(Some(*right), queue))
}
