//! Whoever looks at a page or does something on it.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, Method, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};

use crate::{
    domain::Right,
    http::{Caller, Rejection},
};

use super::{
    cookie, failure::Failure, frame::Frame, origin::check_origin, place, state::Dashboard,
};

const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
const HX_REDIRECT: HeaderName = HeaderName::from_static("hx-redirect");

/// Somebody who was let in, by their log-in, or as nobody needs one.
pub(super) struct Viewer {
    pub(super) caller: Caller,
    /// What a page's frame says of them.
    pub(super) frame: Frame,
}

/// What somebody may do to a queue here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rights {
    /// Look at its messages.
    pub(super) look: bool,
    /// Send.
    pub(super) send: bool,
    /// Change it, empty it, drop it, take messages back.
    pub(super) manage: bool,
}

impl Viewer {
    /// Refuses a form where the dashboard only shows, for the pages that have one; whatever comes by another
    /// method than GET and HEAD is refused before.
    pub(super) fn must_act(&self) -> Result<(), Failure> {
        if self.frame.read_only { Err(Failure::read_only()) } else { Ok(()) }
    }

    /// What they may do to a queue; nothing where the dashboard only shows.
    pub(super) fn rights(&self, queue: &str) -> Rights {
        rights(&self.caller, queue, self.frame.read_only)
    }
}

/// What a caller may do to a queue.
pub(super) fn rights(caller: &Caller, queue: &str, read_only: bool) -> Rights {
    let may = |right| caller.may(Some(right), queue);
    Rights {
        look: may(Right::Receive),
        send: !read_only && may(Right::Send),
        manage: !read_only && may(Right::Manage),
    }
}

impl FromRequestParts<Dashboard> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &Dashboard) -> Result<Self, Response> {
        check_origin(parts).map_err(IntoResponse::into_response)?;
        let credential = cookie::shown(&parts.headers, state.access());
        match Caller::authenticate(parts, state, credential).await {
            Ok(caller) => {
                let needs_log_in = state.access().is_required();
                let frame = Frame {
                    who: needs_log_in.then(|| caller.name().to_owned()),
                    is_operator: caller.is_operator(),
                    read_only: state.shared().read_only,
                };
                let viewer = Self { caller, frame };
                if !matches!(parts.method, Method::GET | Method::HEAD) {
                    viewer.must_act().map_err(IntoResponse::into_response)?;
                }
                Ok(viewer)
            }
            Err(Rejection::Unauthenticated) => Err(lead_to_log_in(parts)),
            Err(rejection) => Err(Failure::from(rejection).into_response()),
        }
    }
}

/// Whether a script asks for a part of a page.
pub(super) fn is_partial(headers: &HeaderMap) -> bool {
    headers.contains_key(HX_REQUEST)
}

fn lead_to_log_in(parts: &Parts) -> Response {
    let root = place::root();
    if parts.method != Method::GET {
        return Failure::from(Rejection::Unauthenticated).into_response();
    }
    // Behind it stands what comes next, as long as it is one of ours.
    let next = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let there = format!("{root}/login?next={}", place::encoded(next));
    if is_partial(&parts.headers) {
        return (StatusCode::NO_CONTENT, [(HX_REDIRECT, place::in_header(&there))]).into_response();
    }
    place::lead_to(&there)
}
