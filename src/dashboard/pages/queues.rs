//! All queues.

use std::cmp::Ordering;

use askama::Template;
use axum::{
    extract::{Request, State},
    response::Response,
};

use crate::{
    broker::{ListQueues, QueueOverview},
    domain::{QueueName, QueuePageSize, Right},
    http::{ScopePermit, right},
};

use super::super::{
    failure::Failure,
    form::Form,
    frame::{Frame, long_html},
    overview::{Row, Sum},
    place,
    state::Dashboard,
    viewer::Viewer,
};

/// Queues on a page.
const PAGE: usize = 50;

#[derive(Template)]
#[template(path = "queues.html")]
struct Page {
    frame: Frame,
    rows: Vec<Row>,
    sum: Sum,
    /// How many there are, and how many of these fit the search.
    all: usize,
    found: usize,
    search: String,
    show: Show,
    columns: Vec<Column>,
    /// Whether there are more, which are not among them.
    is_cut: bool,
    /// Whether figures are collected at all.
    collects: bool,
    may_create: bool,
    /// Behind the `?` of the page before and after this one.
    before: Option<String>,
    after: Option<String>,
    /// The first and last of those that are shown, from 1.
    from: usize,
    to: usize,
    base: String,
}

/// Which queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    All,
    Full,
    Paused,
    Waited,
}

impl Show {
    const ALL: [Self; 4] = [Self::All, Self::Full, Self::Paused, Self::Waited];

    fn parse(text: Option<&str>) -> Self {
        Self::ALL.into_iter().find(|show| Some(show.word()) == text).unwrap_or(Self::All)
    }

    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Full => "full",
            Self::Paused => "paused",
            Self::Waited => "awaited",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::All => "All queues",
            Self::Full => "With messages",
            Self::Paused => "Paused",
            Self::Waited => "With waiting receivers",
        }
    }

    fn fits(self, row: &Row) -> bool {
        match self {
            Self::All => true,
            Self::Full => row.length > 0,
            Self::Paused => row.paused,
            Self::Waited => row.waiters > 0,
        }
    }
}

/// A column, and how to sort by it.
struct Column {
    title: &'static str,
    hint: &'static str,
    is_number: bool,
    /// Behind the `?` of the page that is sorted by it.
    query: String,
    /// As a screen reader says it.
    sorted: Option<&'static str>,
}

const COLUMNS: [(&str, &str, &str); 8] = [
    ("name", "Queue", ""),
    ("waiting", "Waiting", "Messages that could be delivered now"),
    ("in-flight", "In flight", "Messages that were delivered and are hidden"),
    ("delayed", "Delayed", "Messages that were not delivered yet and are hidden"),
    ("age", "Oldest", "For how long the message that waits longest could have been delivered"),
    (
        "rate",
        "In / out a second",
        "Sent, and deleted or archived, by this gateway in the last minute",
    ),
    ("receivers", "Receivers", "Clients that wait at this gateway"),
    ("dead", "Dead letters", "Messages in its dead-letter queue"),
];

/// All queues that somebody may see.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let known = ["q", "show", "sort", "down", "page"];
    let form = Form::of_query(request.uri().query(), &known)?;
    let may_create =
        !viewer.frame.read_only && !viewer.caller.scope(Some(Right::Manage)).is_nothing();
    let frame = viewer.frame;
    let permit = ScopePermit::<right::Any>::new(viewer.caller)?;
    let (queues, is_cut) = seen(&state, &permit).await?;
    let mut rows: Vec<Row> = queues.iter().map(|queue| Row::new(&state, &permit, queue)).collect();
    let (all, sum) = (rows.len(), Sum::of(&rows));
    let show = Show::parse(form.get("show"));
    let search = form.get("q").unwrap_or_default().to_owned();
    let lower = search.to_lowercase();
    rows.retain(|row| show.fits(row) && row.name.to_lowercase().contains(&lower));
    let sort = Sort::of(&form);
    rows.sort_by(|a, b| sort.compare(a, b));
    let found = rows.len();
    let pages = found.div_ceil(PAGE).max(1);
    let page = form.get("page").and_then(|page| page.parse::<usize>().ok()).unwrap_or(1);
    let page = page.clamp(1, pages);
    let first = (page - 1) * PAGE;
    let mut rows: Vec<Row> = rows.into_iter().skip(first).take(PAGE).collect();
    for row in &mut rows {
        row.draw(&state);
    }
    let query = |sort: Sort, page: usize| sort.query(&search, show, page);
    let columns = COLUMNS.map(|(word, title, hint)| {
        let is_this = sort.by == word;
        let next = Sort { by: word, down: if is_this { !sort.down } else { word != "name" } };
        let sorted = is_this.then_some(if sort.down { "descending" } else { "ascending" });
        Column { title, hint, is_number: word != "name", query: query(next, 1), sorted }
    });
    let page = Page {
        from: if rows.is_empty() { 0 } else { first + 1 },
        to: first + rows.len(),
        before: (page > 1).then(|| query(sort, page - 1)),
        after: (page < pages).then(|| query(sort, page + 1)),
        collects: state.shared().collects,
        columns: columns.into(),
        base: place::base(),
        frame,
        rows,
        sum,
        all,
        is_cut,
        found,
        search,
        show,
        may_create,
    };
    Ok(long_html(&state, &permit.call, &page)?)
}

/// From memory; where nobody collects what is there, or has not done so yet, the names are asked for, and it is said
/// whether there are more than that gives.
async fn seen(
    state: &Dashboard,
    permit: &ScopePermit<right::Any>,
) -> Result<(Vec<QueueOverview>, bool), Failure> {
    if state.shared().collects && permit.broker.knows_queues() {
        permit.broker.refresh_changed_settings().await;
        return Ok((permit.broker.overview(&permit.scope), false));
    }
    let what = ListQueues {
        prefix: String::new(),
        after: None,
        limit: QueuePageSize::saturating(QueuePageSize::MAX),
        visible: permit.scope.clone(),
    };
    permit.broker.refresh_all_settings().await;
    let listed = permit.broker.list_queues(&permit.call, what).await?;
    let names = listed.queues.iter().filter_map(|queue| QueueName::parse(&queue.queue).ok());
    let queues = names.map(|name| permit.broker.overview_of(&name)).collect();
    Ok((queues, listed.next.is_some()))
}

/// By which column, and whether the largest comes first.
#[derive(Clone, Copy)]
struct Sort {
    by: &'static str,
    down: bool,
}

impl Sort {
    fn of(form: &Form) -> Self {
        let by = COLUMNS.iter().map(|(word, ..)| *word).find(|word| form.get("sort") == Some(word));
        Self { by: by.unwrap_or("name"), down: form.get("down").is_some() }
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let order = match self.by {
            "waiting" => a.visible.cmp(&b.visible),
            "in-flight" => a.in_flight.cmp(&b.in_flight),
            "delayed" => a.delayed.cmp(&b.delayed),
            "age" => a.oldest_seconds.cmp(&b.oldest_seconds),
            "rate" => (a.sent_rate + a.done_rate).total_cmp(&(b.sent_rate + b.done_rate)),
            "receivers" => a.waiters.cmp(&b.waiters),
            "dead" => a.dead_count().cmp(&b.dead_count()),
            _ => a.name.cmp(&b.name),
        };
        let order = if self.down { order.reverse() } else { order };
        order.then_with(|| a.name.cmp(&b.name))
    }

    fn query(self, search: &str, show: Show, page: usize) -> String {
        let mut fields = vec![("sort", self.by.to_owned())];
        if self.down {
            fields.push(("down", "1".to_owned()));
        }
        if !search.is_empty() {
            fields.push(("q", search.to_owned()));
        }
        if show != Show::All {
            fields.push(("show", show.word().to_owned()));
        }
        if page > 1 {
            fields.push(("page", page.to_string()));
        }
        serde_urlencoded::to_string(fields).unwrap_or_default()
    }
}

/// The same with a slash at its end.
pub(in super::super) async fn lead_there() -> Response {
    place::lead_to(&place::root())
}
