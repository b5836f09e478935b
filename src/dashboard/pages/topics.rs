//! Topics: which patterns lead where, and where a routing key leads.

use askama::Template;
use axum::{
    extract::{Request, State},
    response::Response,
};

use crate::{
    broker::{Binding, Bindings, Error},
    http::{ScopePermit, right},
};

use super::super::{
    failure::Failure,
    form::Form,
    frame::{Frame, long_html},
    place,
    state::Dashboard,
    text,
    viewer::Viewer,
};

/// Bindings on a page.
const PAGE: usize = 100;

#[derive(Template)]
#[template(path = "topics.html")]
struct Page {
    frame: Frame,
    /// Nothing where PGMQ has no topics.
    bindings: Option<Shown>,
    key: String,
    /// Where the key leads.
    leads_to: Option<Vec<String>>,
    error: Option<String>,
    base: String,
}

/// A page of bindings.
struct Shown {
    /// By pattern.
    bindings: Vec<Binding>,
    /// How many are listed on all pages, and whether there are more than these.
    all: String,
    is_cut: bool,
    /// The page before and after this one.
    before: Option<usize>,
    after: Option<usize>,
}

impl Shown {
    fn new(found: Bindings, page: Option<usize>) -> Self {
        let Bindings { listed, is_cut } = found;
        let pages = listed.len().div_ceil(PAGE).max(1);
        let page = page.unwrap_or(1).clamp(1, pages);
        Self {
            all: text::count(i64::try_from(listed.len()).unwrap_or(i64::MAX)),
            is_cut,
            before: (page > 1).then(|| page - 1),
            after: (page < pages).then_some(page + 1),
            bindings: listed.into_iter().skip((page - 1) * PAGE).take(PAGE).collect(),
        }
    }
}

impl Page {
    #[expect(clippy::unused_self, reason = "the template asks it of what it has")]
    fn queue(&self, name: &str) -> String {
        place::queue(name)
    }
}

/// Bindings of the queues that somebody may see.
pub(in super::super) async fn show(
    State(state): State<Dashboard>,
    viewer: Viewer,
    request: Request,
) -> Result<Response, Failure> {
    let form = Form::of_query(request.uri().query(), &["key", "page"])?;
    let page = form.get("page").and_then(|page| page.parse::<usize>().ok());
    let frame = viewer.frame.clone();
    let permit = ScopePermit::<right::Any>::new(viewer.caller)?;
    let (broker, call, scope) = (&permit.broker, &permit.call, &permit.scope);
    let bindings = match broker.bindings(call, None, scope.clone()).await {
        Ok(found) => Some(Shown::new(found, page)),
        Err(Error::NotSupported(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let key = form.get("key").unwrap_or_default().to_owned();
    let (mut leads_to, mut error) = (None, None);
    if bindings.is_some() && !key.is_empty() {
        match broker.routed_to(call, key.clone(), scope.clone()).await {
            Ok(queues) => leads_to = Some(queues),
            Err(invalid @ Error::Invalid { .. }) => error = Some(invalid.to_string()),
            Err(other) => return Err(other.into()),
        }
    }
    let page = Page { frame, bindings, key, leads_to, error, base: place::base() };
    Ok(long_html(&state, &permit.call, &page)?)
}
