//! Logging in and out.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::Utc;
use tokio::time::timeout;
use tracing::info;

use crate::{
    auth::LogInError,
    http::{Caller, Rejection, key_of},
};

use super::{
    cookie,
    failure::Failure,
    form::Form,
    frame::{self, Frame, html},
    origin::check_origin,
    place,
    state::Dashboard,
};

/// The most bytes of the form.
const MAX_FORM: u64 = 32 << 10;
/// Time for it to come: it is small, and anybody can send one.
const FORM_TIME: Duration = Duration::from_secs(5);

#[derive(Template)]
#[template(path = "login.html")]
struct Page {
    frame: Frame,
    next: String,
    error: Option<String>,
}

/// The form, where one has to log in.
pub(super) async fn show(
    State(state): State<Dashboard>,
    request: Request,
) -> Result<Response, Failure> {
    let next = Form::of_query(request.uri().query(), &["next"])?;
    let next = safe_next(next.get("next"));
    if !state.access().is_required() {
        return Ok(lead_to(&next, None));
    }
    Ok(html(&Page { frame: Frame::default(), next, error: None }))
}

/// Takes a key or a token, and gives out what stands for it.
pub(super) async fn log_in(
    State(state): State<Dashboard>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    check_origin(&parts)?;
    let headers = parts.headers.clone();
    let request = Request::from_parts(parts.clone(), body);
    Caller::count_stranger(&parts, &state)?;
    let form = Form::read(request, &state, MAX_FORM, &["key", "next"]);
    let form = timeout(FORM_TIME, form).await.map_err(|_| Rejection::BodyTooSlow(FORM_TIME))??;
    let next = safe_next(form.get("next"));
    let Some(credential) = form.get("key").and_then(key_of) else {
        return Ok(refused(next, "Enter a key, or a token."));
    };
    match Caller::authenticate(&parts, &state, Some(credential.clone())).await {
        Ok(caller) => match state.access().log_in(&credential) {
            Ok(log_in) => {
                info!(target: "audit", who = caller.name(), action = "log in", "audit");
                let seconds = (log_in.ends_at - Utc::now()).num_seconds().max(0);
                let cookie = cookie::with(&state, &headers, &log_in.text, seconds);
                Ok(lead_to(&next, Some(cookie)))
            }
            Err(LogInError::TooLong) => Ok(refused(
                next,
                "What this token grants is longer than a browser keeps: use one with fewer grants.",
            )),
            Err(LogInError::Unauthenticated) => Ok(refused(next, WRONG)),
        },
        Err(Rejection::Unauthenticated) => Ok(refused(next, WRONG)),
        Err(rejection) => Err(rejection.into()),
    }
}

const WRONG: &str = "This key is not in force here: it is wrong, revoked or expired.";

/// Forgets it.
pub(super) async fn log_out(
    State(state): State<Dashboard>,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    check_origin(&parts)?;
    let cookie = cookie::with(&state, &parts.headers, "", 0);
    Ok(lead_to(&format!("{}/login", place::root()), Some(cookie)))
}

fn refused(next: String, error: &str) -> Response {
    let page = Page { frame: Frame::default(), next, error: Some(error.to_owned()) };
    frame::refused(StatusCode::UNAUTHORIZED, "unauthenticated", &page)
}

fn lead_to(there: &str, cookie: Option<String>) -> Response {
    let mut response = place::lead_to(there);
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(&cookie).ok()) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// A page of ours; nobody is led elsewhere.
fn safe_next(next: Option<&str>) -> String {
    let root = place::root();
    // As it stands in the request, without what a proxy takes off.
    let rest = next.and_then(|next| next.strip_prefix("/ui")).filter(|rest| {
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"\\\"<>".contains(&byte);
        rest.is_empty() || (rest.starts_with(['/', '?']) && rest.bytes().all(fits))
    });
    rest.map_or(root.clone(), |rest| format!("{root}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_leads_to_a_page_of_ours_alone() {
        for (next, leads_to) in [
            (None, "/ui"),
            (Some("/ui"), "/ui"),
            (Some("/ui/queues/a%2Fb?tab=dead"), "/ui/queues/a%2Fb?tab=dead"),
            (Some("/ui?sort=name"), "/ui?sort=name"),
            (Some("/uix"), "/ui"),
            (Some("//evil.example"), "/ui"),
            (Some("https://evil.example/ui"), "/ui"),
            (Some("/ui/\r\nx: y"), "/ui"),
            (Some("/ui\\@evil.example"), "/ui"),
            (Some("/ui@evil.example"), "/ui"),
        ] {
            assert_eq!(safe_next(next), leads_to, "{next:?}");
        }
    }
}
