//! Errors as PostgREST has them: a JSON object with `code`, `details`, `hint` and `message`, all four
//! always there.

use std::{borrow::Cow, error::Error as StdError, sync::Arc};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    broker,
    http::{Rejection, WireError, error_response, shortened},
};

type Text = Cow<'static, str>;

/// An error on its way to the client.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    /// A SQLSTATE, or one of PostgREST's own.
    code: &'static str,
    message: Text,
    details: Option<Text>,
    hint: Option<Text>,
    /// Seconds after which trying again makes sense.
    retry_after: Option<u32>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// As the client gets it.
#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    details: Option<&'a str>,
    hint: Option<&'a str>,
    message: &'a str,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<Text>) -> Self {
        let (message, details, hint) = (shortened(message), None, None);
        Self { status, code, message, details, hint, retry_after: None, cause: None }
    }

    /// One of 400.
    pub(super) fn bad(code: &'static str, message: impl Into<Text>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// There is no such table in PGMQ's schema.
    pub(super) fn no_relation(kind: char, queue: &str) -> Self {
        let queue = queue.to_lowercase();
        let message = format!("relation \"pgmq.{kind}_{queue}\" does not exist");
        Self::new(StatusCode::NOT_FOUND, "42P01", message)
    }

    pub(super) fn details(self, details: impl Into<Text>) -> Self {
        Self { details: Some(shortened(details)), ..self }
    }

    pub(super) fn hint(self, hint: impl Into<Text>) -> Self {
        Self { hint: Some(shortened(hint)), ..self }
    }

    /// What the shared layers refuse.
    pub(super) fn rejected(rejection: Rejection) -> Arc<dyn WireError> {
        Arc::new(Self::from(rejection))
    }

    fn again_in(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    fn saying(self, message: String) -> Self {
        Self { message: shortened(message), ..self }
    }
}

impl WireError for Failure {
    fn code(&self) -> &'static str {
        self.code
    }

    fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.cause.as_deref()
    }

    fn render(&self, _: &str) -> Response {
        let Self { code, message, details, hint, .. } = self;
        let (details, hint) = (details.as_deref(), hint.as_deref());
        // Strings: this cannot fail.
        let body = serde_json::to_vec(&Body { code, details, hint, message }).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/json; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
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
        let message = rejection.detail();
        match rejection {
            R::Malformed(_) => Self::bad("PGRST100", message),
            R::Unauthenticated => Self::new(S::UNAUTHORIZED, "PGRST301", "Invalid API key")
                .hint("The gateway takes its own keys, and tokens of those whose JWKS it is given"),
            R::Forbidden(_) | R::UnknownHost => Self::new(S::FORBIDDEN, "42501", message),
            R::ForeignOrigin(_) | R::UnsupportedEncoding(_) => {
                Self::new(S::UNSUPPORTED_MEDIA_TYPE, "PGRST102", message)
            }
            R::RateLimited { wait, .. } => {
                let seconds = u32::try_from(R::seconds(wait)).unwrap_or(u32::MAX);
                Self::new(S::TOO_MANY_REQUESTS, "53400", message).again_in(seconds)
            }
            R::Overloaded(_) => Self::new(S::SERVICE_UNAVAILABLE, "53000", message).again_in(1),
            R::BodyTooLarge(_) => Self::new(S::PAYLOAD_TOO_LARGE, "54000", message),
            R::BodyTooSlow(_) => Self::new(S::REQUEST_TIMEOUT, "57014", message),
            R::Unserved(status) => Self::new(status, "PGRSTX00", message),
            R::Broker(error) => error.into(),
            R::Internal { source, .. } => Self {
                cause: Some(source),
                ..Self::new(S::INTERNAL_SERVER_ERROR, "XX000", message)
            },
        }
    }
}

impl From<broker::Error> for Failure {
    /// The table from the broker's errors to those of PostgreSQL and PostgREST.
    fn from(error: broker::Error) -> Self {
        let failure = failure_of(&error);
        Self { cause: Some(error.into()), ..failure }
    }
}

fn failure_of(error: &broker::Error) -> Failure {
    use StatusCode as S;
    use broker::Error as E;
    let as_it_says = |status, code| Failure::new(status, code, error.to_string());
    match error {
        E::InOperation { source, .. } | E::InMessage { source, .. } => failure_of(source),
        E::Shared(source) => failure_of(source),
        E::PartlyChanged { source, .. } | E::ChangedUnseen { source, .. } => {
            failure_of(source).saying(error.to_string())
        }
        E::QueueNotFound(queue) => Failure::no_relation('q', queue),
        E::NoArchive(queue) => Failure::no_relation('a', queue),
        // Of no part of the request: no queue can have the name.
        E::Invalid { part: None, .. } => as_it_says(S::BAD_REQUEST, "P0001"),
        E::Invalid { .. } | E::FilterInGroups | E::NoDeadLetterQueue(_) => {
            as_it_says(S::BAD_REQUEST, "22023")
        }
        E::MessageRejected { .. } => as_it_says(S::BAD_REQUEST, "23514"),
        E::MessageUnreadable(_) => as_it_says(S::BAD_REQUEST, "54000"),
        E::MessageNotFound { .. } | E::BindingNotFound { .. } => as_it_says(S::NOT_FOUND, "P0002"),
        E::QueueConflict(_) | E::QueueDiffers { .. } => as_it_says(S::CONFLICT, "42P07"),
        E::QueueInUse { .. } | E::TablesNeeded(_) => as_it_says(S::CONFLICT, "2BP01"),
        E::TableDiffers { .. } => as_it_says(S::BAD_REQUEST, "42804"),
        E::MessageConflict(_) | E::IdempotencyConflict | E::IdempotencyAnswerLost => {
            as_it_says(S::CONFLICT, "23505")
        }
        E::ReceiptStale { .. } => as_it_says(S::CONFLICT, "40001"),
        E::MessageTooLarge { .. } | E::MessageExpands { .. } | E::PublicationTooLarge { .. } => {
            as_it_says(S::PAYLOAD_TOO_LARGE, "54000")
        }
        E::Forbidden { .. }
        | E::SequenceBehind { .. }
        | E::SendForbidden(_)
        | E::MessageKept { .. }
        | E::SourceKept(_)
        | E::ChangeRefused { .. }
        | E::KeyRefused { .. }
        | E::QueueHidden(_)
        | E::QueueKept(_) => as_it_says(S::FORBIDDEN, "42501"),
        E::NotSupported(_) => as_it_says(S::NOT_IMPLEMENTED, "0A000"),
        E::Overloaded(_) => as_it_says(S::SERVICE_UNAVAILABLE, "53000").again_in(1),
        E::Locked(_) => as_it_says(S::SERVICE_UNAVAILABLE, "55P03").again_in(1),
        E::TookTooLong(_) => as_it_says(S::SERVICE_UNAVAILABLE, "57014").again_in(2),
        E::OutcomeUnknown(_) => as_it_says(S::SERVICE_UNAVAILABLE, "08007").again_in(1),
        E::DatabaseUnavailable(_) | E::TriggerFailed(_) | E::Undone(_) => {
            as_it_says(S::SERVICE_UNAVAILABLE, "PGRST000").again_in(2)
        }
        E::Internal(_) | E::ReadFails { .. } | E::IdsExhausted { .. } => {
            as_it_says(S::INTERNAL_SERVER_ERROR, "XX000")
        }
    }
}
