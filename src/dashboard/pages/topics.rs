//! Topics: which patterns lead where, and where a routing key leads.

use askama::Template;
use axum::{extract::Request, response::Response};

use crate::{
    broker::{Binding, Error},
    http::{ScopePermit, right},
};

use super::super::{
    failure::Failure,
    form::Form,
    frame::{Frame, html},
    place,
    viewer::Viewer,
};

#[derive(Template)]
#[template(path = "topics.html")]
struct Page {
    frame: Frame,
    /// By pattern; nothing where PGMQ has no topics.
    bindings: Option<Vec<Binding>>,
    key: String,
    /// Where the key leads.
    leads_to: Option<Vec<String>>,
    error: Option<String>,
    base: String,
}

impl Page {
    #[expect(clippy::unused_self, reason = "the template asks it of what it has")]
    fn queue(&self, name: &str) -> String {
        place::queue(name)
    }
}

/// Bindings of the queues that somebody may see.
pub(in super::super) async fn show(viewer: Viewer, request: Request) -> Result<Response, Failure> {
    let form = Form::of_query(request.uri().query(), &["key"])?;
    let frame = viewer.frame.clone();
    let permit = ScopePermit::<right::Any>::new(viewer.caller)?;
    let (broker, call, scope) = (&permit.broker, &permit.call, &permit.scope);
    let bindings = match broker.bindings(call, None, scope.clone()).await {
        Ok(mut bindings) => {
            bindings.sort_by(|a, b| (&a.pattern, &a.queue).cmp(&(&b.pattern, &b.queue)));
            Some(bindings)
        }
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
    Ok(html(&Page { frame, bindings, key, leads_to, error, base: place::base() }))
}
