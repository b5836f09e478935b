//! What stands around the content of every page.

use std::error::Error as StdError;

use askama::Template;
use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::http::{WireError, error_response};

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

/// A page, made whole before its first byte is sent.
pub(super) fn html(page: &impl Template) -> Response {
    // Into a string: templates have nothing that fails.
    let text = page.render().unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response()
}

/// A page that says that something did not work, with its form to try again.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    code: &'static str,
    text: String,
}

impl WireError for Refused {
    fn code(&self) -> &'static str {
        self.code
    }

    fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        None
    }

    fn render(&self, _: &str) -> Response {
        let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
        (self.status, kind, self.text.clone()).into_response()
    }
}

/// A page with the status of an error; `code` is the word for it in the log.
pub(super) fn refused(status: StatusCode, code: &'static str, page: &impl Template) -> Response {
    let text = page.render().unwrap_or_default();
    error_response(status, Refused { status, code, text })
}
