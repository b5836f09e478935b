//! What went wrong, as a page.

use std::{borrow::Cow, error::Error as StdError, sync::Arc};

use askama::Template;
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{
    broker,
    http::{Rejection, WireError, error_response, shortened},
};

use super::frame::{Frame, html};

type Text = Cow<'static, str>;

/// An error on its way to the browser.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: Text,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u64>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

#[derive(Template)]
#[template(path = "failure.html")]
struct Page<'a> {
    frame: Frame,
    title: &'a str,
    detail: &'a str,
    status: u16,
    request_id: &'a str,
    log_in: bool,
}

impl Failure {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Text>,
    ) -> Self {
        let detail = shortened(detail);
        Self { status, code, title, detail, retry_after: None, cause: None }
    }

    /// What was asked for makes no sense, as the text says.
    pub(super) fn invalid(detail: impl Into<Text>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "That does not work", detail)
    }

    /// It is not there.
    pub(super) fn not_found(detail: impl Into<Text>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is nothing here", detail)
    }

    /// The dashboard only shows.
    pub(super) fn read_only() -> Self {
        let detail = "This dashboard only shows: `dashboard.read_only` is set. Nothing was done.";
        Self::new(StatusCode::FORBIDDEN, "read_only", "Read only", detail)
    }

    /// What the shared layers refuse.
    pub(super) fn rejected(rejection: Rejection) -> Arc<dyn WireError> {
        Arc::new(Self::from(rejection))
    }

    /// What went wrong, in words.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Whether whoever asked can mend it by asking otherwise.
    pub(super) fn is_clients(&self) -> bool {
        matches!(self.status.as_u16(), 400 | 409 | 413 | 422)
    }

    /// Whether it is not known whether it was done.
    pub(super) fn may_be_done(&self) -> bool {
        self.code == "outcome_unknown"
    }

    /// It is not any more as whoever asked saw it.
    pub(super) fn conflict(detail: impl Into<Text>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Something has changed", detail)
    }

    fn again_in(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    fn saying(self, detail: String) -> Self {
        Self { detail: shortened(detail), ..self }
    }
}

impl WireError for Failure {
    fn code(&self) -> &'static str {
        self.code
    }

    fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.cause.as_deref()
    }

    fn render(&self, request_id: &str) -> Response {
        let page = Page {
            frame: Frame::default(),
            title: self.title,
            detail: &self.detail,
            status: self.status.as_u16(),
            request_id,
            log_in: self.status == StatusCode::UNAUTHORIZED,
        };
        let mut response = (self.status, html(&page)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        error_response(self.status, self)
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        use Rejection as R;
        use StatusCode as S;
        let detail = rejection.detail();
        match rejection {
            R::Malformed(_) => Self::invalid(detail),
            R::Unauthenticated => Self::new(
                S::UNAUTHORIZED,
                "unauthenticated",
                "You are not logged in",
                "Your log-in is over, or the key behind it is. Nothing was done.",
            ),
            R::Forbidden(_) => Self::new(S::FORBIDDEN, "forbidden", "You may not do this", detail),
            R::UnknownHost => Self::new(S::FORBIDDEN, "forbidden", "Unknown name", detail),
            R::ForeignOrigin(_) => {
                Self::new(S::FORBIDDEN, "foreign_origin", "Not from here", detail)
            }
            R::UnsupportedEncoding(_) => {
                Self::new(S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Encoded", detail)
            }
            R::RateLimited { wait, .. } => {
                Self::new(S::TOO_MANY_REQUESTS, "rate_limited", "Too many requests", detail)
                    .again_in(R::seconds(wait))
            }
            R::Overloaded(_) => {
                Self::new(S::SERVICE_UNAVAILABLE, "overloaded", "Too much at once", detail)
                    .again_in(1)
            }
            R::BodyTooLarge(_) => {
                Self::new(S::PAYLOAD_TOO_LARGE, "message_too_large", "Too large", detail)
            }
            R::BodyTooSlow(_) => {
                Self::new(S::REQUEST_TIMEOUT, "request_timeout", "Too slow", detail)
            }
            R::Unserved(status) => Self::new(status, "internal_error", "Not served", detail),
            R::Broker(error) => error.into(),
            R::Internal { source, .. } => Self {
                cause: Some(source),
                ..Self::new(S::INTERNAL_SERVER_ERROR, "internal_error", "A defect", detail)
            },
        }
    }
}

impl From<broker::Error> for Failure {
    fn from(error: broker::Error) -> Self {
        let failure = failure_of(&error);
        Self { cause: Some(error.into()), ..failure }
    }
}

/// The table from the broker's errors to pages.
fn failure_of(error: &broker::Error) -> Failure {
    use StatusCode as S;
    use broker::Error as E;
    let as_it_says = |status, code, title| Failure::new(status, code, title, error.to_string());
    match error {
        E::InOperation { source, .. } | E::InMessage { source, .. } => failure_of(source),
        E::Shared(source) => failure_of(source),
        E::PartlyChanged { source, .. } | E::ChangedUnseen { source, .. } => {
            failure_of(source).saying(error.to_string())
        }
        E::QueueNotFound(queue) => Failure::new(
            S::NOT_FOUND,
            "queue_not_found",
            "There is no such queue",
            format!("There is no queue `{queue}`: it was never made, or has been dropped."),
        ),
        E::Invalid { .. } | E::FilterInGroups | E::NoDeadLetterQueue(_) => {
            as_it_says(S::BAD_REQUEST, "invalid_request", "That does not work")
        }
        E::MessageNotFound { .. } => {
            as_it_says(S::NOT_FOUND, "message_not_found", "There is no such message")
        }
        E::BindingNotFound { .. } => {
            as_it_says(S::NOT_FOUND, "binding_not_found", "There is no such binding")
        }
        E::QueueConflict(_)
        | E::TablesNeeded(_)
        | E::QueueDiffers { .. }
        | E::TableDiffers { .. }
        | E::QueueInUse { .. }
        | E::MessageConflict(_)
        | E::IdempotencyConflict
        | E::IdempotencyAnswerLost
        | E::ReceiptStale { .. } => as_it_says(S::CONFLICT, "conflict", "Something is in the way"),
        E::MessageTooLarge { .. } | E::MessageExpands { .. } | E::PublicationTooLarge { .. } => {
            as_it_says(S::PAYLOAD_TOO_LARGE, "message_too_large", "Too large")
        }
        E::MessageRejected { .. } => {
            as_it_says(S::UNPROCESSABLE_ENTITY, "message_rejected", "The database refuses it")
        }
        E::MessageUnreadable(_) => {
            as_it_says(S::UNPROCESSABLE_ENTITY, "message_unreadable", "It cannot be read")
        }
        E::Forbidden { .. }
        | E::SequenceBehind { .. }
        | E::SendForbidden(_)
        | E::MessageKept { .. }
        | E::SourceKept(_)
        | E::ChangeRefused { .. }
        | E::KeyRefused { .. }
        | E::QueueHidden(_)
        | E::QueueKept(_) => {
            as_it_says(S::FORBIDDEN, "forbidden", "The database does not allow it")
        }
        E::NotSupported(_) => as_it_says(S::NOT_IMPLEMENTED, "not_supported", "Not here"),
        E::Overloaded(_) => {
            as_it_says(S::SERVICE_UNAVAILABLE, "overloaded", "Too much at once").again_in(1)
        }
        E::Locked(_) => as_it_says(S::SERVICE_UNAVAILABLE, "locked", "It is locked").again_in(1),
        E::OutcomeUnknown(_) => {
            as_it_says(S::SERVICE_UNAVAILABLE, "outcome_unknown", "It may be done").again_in(1)
        }
        E::TookTooLong(_) | E::Undone(_) => {
            let title = "The database did not get it done";
            as_it_says(S::SERVICE_UNAVAILABLE, "database_unavailable", title).again_in(2)
        }
        E::DatabaseUnavailable(_) | E::TriggerFailed(_) => {
            let title = "The database does not answer";
            as_it_says(S::SERVICE_UNAVAILABLE, "database_unavailable", title).again_in(2)
        }
        E::Internal(_) | E::ReadFails { .. } | E::IdsExhausted { .. } | E::NoArchive(_) => {
            as_it_says(S::INTERNAL_SERVER_ERROR, "internal_error", "Something is broken")
        }
    }
}
