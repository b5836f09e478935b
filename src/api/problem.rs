//! Errors on the wire: RFC 9457 problem details with a stable code.

use std::{borrow::Cow, error::Error as StdError, sync::Arc};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    broker,
    http::{Rejection, WireError, error_response, shortened},
};

use super::{
    error_text,
    settled::{Settled, WrittenSettled},
};

/// What a client without a valid key is told to show.
const CHALLENGE: &str = "Bearer realm=\"pgmq-gateway\", Basic realm=\"pgmq-gateway\"";

/// What a problem is, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidRequest,
    QueueNotFound,
    MessageNotFound,
    RouteNotFound,
    MethodNotAllowed,
    BindingNotFound,
    RequestTimeout,
    QueueConflict,
    QueueInUse,
    ReceiptStale,
    IdempotencyConflict,
    MessageConflict,
    MessageTooLarge,
    UnsupportedMediaType,
    MessageRejected,
    Unauthenticated,
    Forbidden,
    RateLimited,
    NotSupported,
    Overloaded,
    DatabaseUnavailable,
    OutcomeUnknown,
    InternalError,
}

impl Code {
    /// Status, code and title: the contract's table.
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidRequest => (S::BAD_REQUEST, "invalid_request", "Invalid request"),
            Self::QueueNotFound => (S::NOT_FOUND, "queue_not_found", "Queue not found"),
            Self::MessageNotFound => (S::NOT_FOUND, "message_not_found", "Message not found"),
            Self::RouteNotFound => (S::NOT_FOUND, "route_not_found", "No such route"),
            Self::MethodNotAllowed => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            Self::RequestTimeout => {
                (S::REQUEST_TIMEOUT, "request_timeout", "The request took too long to arrive")
            }
            Self::QueueConflict => {
                (S::CONFLICT, "queue_conflict", "The queue exists and is different")
            }
            Self::QueueInUse => {
                (S::CONFLICT, "queue_in_use", "Dead letters of other queues go there")
            }
            Self::BindingNotFound => (S::NOT_FOUND, "binding_not_found", "Binding not found"),
            Self::ReceiptStale => {
                (S::CONFLICT, "receipt_stale", "The message has been delivered again since")
            }
            Self::IdempotencyConflict => {
                (S::CONFLICT, "idempotency_conflict", "The key was used for another request")
            }
            Self::MessageConflict => {
                (S::CONFLICT, "message_conflict", "There is such a message already")
            }
            Self::MessageTooLarge => {
                (S::PAYLOAD_TOO_LARGE, "message_too_large", "Message too large")
            }
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unsupported media type")
            }
            Self::MessageRejected => {
                (S::UNPROCESSABLE_ENTITY, "message_rejected", "The message cannot be stored")
            }
            Self::Unauthenticated => (S::UNAUTHORIZED, "unauthenticated", "A valid key is needed"),
            Self::RateLimited => (S::TOO_MANY_REQUESTS, "rate_limited", "Too many requests"),
            Self::Forbidden => (S::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotSupported => (S::NOT_IMPLEMENTED, "not_supported", "Not supported here"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "Overloaded"),
            Self::DatabaseUnavailable => {
                (S::SERVICE_UNAVAILABLE, "database_unavailable", "Database unavailable")
            }
            Self::OutcomeUnknown => (S::SERVICE_UNAVAILABLE, "outcome_unknown", "Outcome unknown"),
            Self::InternalError => (S::INTERNAL_SERVER_ERROR, "internal_error", "Internal error"),
        }
    }

    /// The HTTP status.
    pub(super) const fn status(self) -> StatusCode {
        self.parts().0
    }

    /// The word for it.
    pub(super) const fn as_str(self) -> &'static str {
        self.parts().1
    }

    /// Seconds after which trying again makes sense.
    pub(super) const fn retry_after(self) -> Option<u64> {
        match self {
            Self::Overloaded | Self::OutcomeUnknown | Self::RateLimited => Some(1),
            Self::DatabaseUnavailable => Some(2),
            _ => None,
        }
    }
}

/// An error on its way to the client. The edge renders it, because it knows the request's id.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) code: Code,
    pub(super) detail: Cow<'static, str>,
    /// The operation of a transaction that is to blame.
    pub(super) operation: Option<usize>,
    /// What was settled before it failed, and stays so.
    pub(super) settled: Option<WrittenSettled>,
    /// Seconds after which trying again makes sense, where that is known.
    pub(super) retry_after: Option<u64>,
    /// For the log alone.
    pub(super) source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The body of an error.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "urn:pgmq-gateway:problem:queue_not_found", "title": "Queue not found", "status": 404,
    "detail": "there is no queue `orders`; PUT /queues/orders creates it",
    "instance": "01980f2e-1b0c-7000-8000-000000000000", "code": "queue_not_found"
}))]
pub(super) struct ProblemBody<'a> {
    /// Names the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "urn:pgmq-gateway:problem:queue_not_found")]
    kind: String,
    /// The kind of problem in words.
    #[schema(example = "Queue not found")]
    title: &'a str,
    /// The HTTP status.
    #[schema(example = 404)]
    status: u16,
    /// What is wrong here, and what would be right.
    #[schema(example = "there is no queue `orders`; PUT /queues/orders creates it")]
    detail: &'a str,
    /// The id of the request, as in `X-Request-Id`.
    #[schema(example = "01980f2e-1b0c-7000-8000-000000000000")]
    instance: &'a str,
    /// The kind of problem for programs; it does not change.
    #[schema(example = "queue_not_found")]
    code: &'a str,
    /// Of a transaction: the place of the operation that is to blame, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// Of a receive that settles first: what was settled, and stays so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Settled>)]
    settled: Option<&'a WrittenSettled>,
}

impl Problem {
    pub(super) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: shortened(detail),
            operation: None,
            settled: None,
            retry_after: None,
            source: None,
        }
    }

    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// What the shared layers refuse.
    pub(super) fn rejected(rejection: Rejection) -> Arc<dyn WireError> {
        Arc::new(Self::from(rejection))
    }

    /// The body as the client gets it.
    pub(super) fn body<'a>(&'a self, request_id: &'a str) -> ProblemBody<'a> {
        let (status, code, title) = self.code.parts();
        ProblemBody {
            kind: format!("urn:pgmq-gateway:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance: request_id,
            code,
            index: self.operation,
            settled: self.settled.as_ref(),
        }
    }
}

impl WireError for Problem {
    fn code(&self) -> &'static str {
        self.code.as_str()
    }

    fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.source.as_deref()
    }

    fn render(&self, request_id: &str) -> Response {
        // Strings and a number: this cannot fail.
        let body = serde_json::to_vec(&self.body(request_id)).unwrap_or_default();
        let body = match &self.settled {
            Some(settled) => settled.within(body),
            None => body.into(),
        };
        let mut response = (self.code.parts().0, body).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after.or(self.code.retry_after()) {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == Code::UnsupportedMediaType {
            // RFC 9110 has it say which encodings would do.
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        error_response(self.code.parts().0, self)
    }
}

impl From<Rejection> for Problem {
    /// The table from what the shared layers refuse to the contract's errors.
    fn from(rejection: Rejection) -> Self {
        let problem = Self::new(code_of_rejection(&rejection), rejection.detail());
        match rejection {
            Rejection::Broker(error) => error.into(),
            Rejection::Internal { source, .. } => Self { source: Some(source), ..problem },
            Rejection::RateLimited { wait, .. } => {
                Self { retry_after: Some(Rejection::seconds(wait)), ..problem }
            }
            _ => problem,
        }
    }
}

/// The code of what the shared layers refuse.
fn code_of_rejection(rejection: &Rejection) -> Code {
    use Rejection as R;
    match rejection {
        R::Malformed(_) => Code::InvalidRequest,
        R::Unauthenticated => Code::Unauthenticated,
        R::Forbidden(_) | R::UnknownHost => Code::Forbidden,
        R::ForeignOrigin(_) | R::UnsupportedEncoding(_) => Code::UnsupportedMediaType,
        R::RateLimited { .. } => Code::RateLimited,
        R::Overloaded(_) => Code::Overloaded,
        R::BodyTooLarge(_) => Code::MessageTooLarge,
        R::BodyTooSlow(_) => Code::RequestTimeout,
        R::Unserved(status) => code_of_status(*status),
        R::Broker(error) => code_of(error),
        R::Internal { .. } => Code::InternalError,
    }
}

/// The code of a status that the framework gave by itself.
fn code_of_status(status: StatusCode) -> Code {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => Code::MessageTooLarge,
        StatusCode::REQUEST_TIMEOUT => Code::RequestTimeout,
        StatusCode::NOT_FOUND => Code::RouteNotFound,
        status if status.is_client_error() => Code::InvalidRequest,
        _ => Code::InternalError,
    }
}

impl From<broker::Error> for Problem {
    /// The table from the broker's errors to the contract's.
    fn from(error: broker::Error) -> Self {
        let operation = match &error {
            broker::Error::InOperation { operation, .. } => Some(*operation),
            _ => None,
        };
        let (code, detail) = (code_of(&error), error_text::detail(&error));
        Self { operation, source: Some(error.into()), ..Self::new(code, detail) }
    }
}

/// The code of the broker's errors.
pub(super) fn code_of(error: &broker::Error) -> Code {
    use broker::Error as E;
    match error {
        E::Invalid { .. } | E::FilterInGroups | E::NoDeadLetterQueue(_) => Code::InvalidRequest,
        E::QueueNotFound(_) => Code::QueueNotFound,
        E::MessageNotFound { .. } => Code::MessageNotFound,
        E::BindingNotFound { .. } => Code::BindingNotFound,
        E::QueueConflict(_)
        | E::QueueDiffers { .. }
        | E::TablesNeeded(_)
        | E::TableDiffers { .. } => Code::QueueConflict,
        E::QueueInUse { .. } => Code::QueueInUse,
        E::ReceiptStale { .. } => Code::ReceiptStale,
        E::IdempotencyConflict | E::IdempotencyAnswerLost => Code::IdempotencyConflict,
        E::InOperation { source, .. }
        | E::InMessage { source, .. }
        | E::PartlyChanged { source, .. }
        | E::ChangedUnseen { source, .. } => code_of(source),
        E::Shared(source) => code_of(source),
        E::MessageTooLarge { .. } | E::MessageExpands { .. } | E::PublicationTooLarge { .. } => {
            Code::MessageTooLarge
        }
        E::MessageRejected { .. } | E::MessageUnreadable(_) => Code::MessageRejected,
        E::Forbidden { .. }
        | E::SequenceBehind { .. }
        | E::SendForbidden(_)
        | E::MessageKept { .. }
        | E::SourceKept(_)
        | E::ChangeRefused { .. }
        | E::KeyRefused { .. }
        | E::QueueHidden(_)
        | E::QueueKept(_) => Code::Forbidden,
        E::MessageConflict(_) => Code::MessageConflict,
        E::NotSupported(_) => Code::NotSupported,
        E::Overloaded(_) | E::Locked(_) => Code::Overloaded,
        E::DatabaseUnavailable(_) | E::TookTooLong(_) | E::Undone(_) | E::TriggerFailed(_) => {
            Code::DatabaseUnavailable
        }
        E::OutcomeUnknown(_) => Code::OutcomeUnknown,
        E::Internal(_) | E::NoArchive(_) | E::ReadFails { .. } | E::IdsExhausted { .. } => {
            Code::InternalError
        }
    }
}
