//! What stands around the content of every page.

use std::error::Error as StdError;

use askama::Template;
use axum::{
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use crate::{
    domain::Call,
    http::{Gate, Rejection, WireError, error_response, room_for_bytes},
};

use super::{assets, place};

/// What stands around the content of a page.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// Whoever is logged in.
    pub(super) who: Option<String>,
    /// Whether they see what concerns the gateway as a whole.
    pub(super) is_operator: bool,
    /// Whether nothing can be done here.
    pub(super) read_only: bool,
}

impl Frame {
    /// The path of the dashboard.
    #[expect(clippy::unused_self, reason = "templates ask it of what they have")]
    pub(super) fn root(&self) -> String {
        place::root()
    }

    /// Where the API can be browsed.
    #[expect(clippy::unused_self, reason = "templates ask it of what they have")]
    pub(super) fn docs(&self) -> String {
        format!("{}/docs/", place::base())
    }

    /// Where a file of ours is.
    #[expect(clippy::unused_self, reason = "templates ask it of what they have")]
    pub(super) fn asset(&self, file: &str) -> String {
        format!("{}/assets/{}/{file}", place::root(), assets::version())
    }
}

const HTML: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];

/// A page, made whole before its first byte is sent.
pub(super) fn html(page: &impl Template) -> Response {
    (HTML, text(page)).into_response()
}

/// One that may be long: it counts until it is sent.
pub(super) fn long_html(
    gate: &Gate,
    call: &Call,
    page: &impl Template,
) -> Result<Response, Rejection> {
    Ok((HTML, counted(gate, call, page)?).into_response())
}

fn text(page: &impl Template) -> String {
    // Into a string: templates have nothing that fails.
    page.render().unwrap_or_default()
}

fn counted(gate: &Gate, call: &Call, page: &impl Template) -> Result<Bytes, Rejection> {
    let text = text(page);
    room_for_bytes(gate, call, text.len()).map(|held| held.keep(text.into_bytes()))
}

/// A page that says that something did not work, with its form to try again.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    code: &'static str,
    text: Bytes,
}

impl WireError for Refused {
    fn code(&self) -> &'static str {
        self.code
    }

    fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        None
    }

    fn render(&self, _: &str) -> Response {
        (self.status, HTML, self.text.clone()).into_response()
    }
}

/// A page with the status of an error; `code` is the word for it in the log.
pub(super) fn refused(status: StatusCode, code: &'static str, page: &impl Template) -> Response {
    error_response(status, Refused { status, code, text: text(page).into() })
}

/// One that may be long: it counts until it is sent.
pub(super) fn long_refused(
    gate: &Gate,
    call: &Call,
    (status, code): (StatusCode, &'static str),
    page: &impl Template,
) -> Result<Response, Rejection> {
    let text = counted(gate, call, page)?;
    Ok(error_response(status, Refused { status, code, text }))
}
