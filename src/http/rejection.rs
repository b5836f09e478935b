//! What the shared layers refuse, before a front end gives it the form of its own errors.

use std::{borrow::Cow, error::Error as StdError, sync::Arc, time::Duration};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::broker;

/// A request that is not served, and why.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// It is malformed, as the text says.
    Malformed(Cow<'static, str>),
    /// It shows no credential that is in force.
    Unauthenticated,
    /// The credential does not allow it.
    Forbidden(Cow<'static, str>),
    /// It is for a host name that is not the gateway's.
    UnknownHost,
    /// A browser makes it for a page of another site, or may.
    ForeignOrigin(&'static str),
    /// Its body has a `Content-Encoding`, this one.
    UnsupportedEncoding(String),
    /// There are more requests in a second than may be; `wait` until the next is taken.
    RateLimited {
        /// Whose rate it is.
        detail: &'static str,
        /// When the next one is taken.
        wait: Duration,
    },
    /// There are as many requests, waiting clients or bytes in flight as may be.
    Overloaded(Cow<'static, str>),
    /// Its body has more bytes than this.
    BodyTooLarge(u64),
    /// Its body did not come within this time.
    BodyTooSlow(Duration),
    /// The framework answered it by itself, with this status.
    Unserved(StatusCode),
    /// An operation failed.
    Broker(broker::Error),
    /// It should not have happened.
    Internal {
        /// What the client is told.
        detail: &'static str,
        /// For the log alone.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Rejection {
    /// In words that fit every front end.
    pub(crate) fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::Malformed(detail) | Self::Forbidden(detail) | Self::Overloaded(detail) => {
                detail.clone()
            }
            Self::Unauthenticated => {
                "a valid key is needed: `Authorization: Bearer <key>`, or HTTP \
                                      Basic with the key as password"
                    .into()
            }
            Self::UnknownHost => {
                "the gateway does not answer to this name; http.allowed_hosts lists \
                                  those to which it does"
                    .into()
            }
            Self::ForeignOrigin(detail)
            | Self::RateLimited { detail, .. }
            | Self::Internal { detail, .. } => (*detail).into(),
            Self::UnsupportedEncoding(coding) => format!(
                "a body with `{coding}` is not taken: send it as it is, without this coding"
            )
            .into(),
            Self::BodyTooLarge(limit) => {
                format!("the body is larger than {limit} bytes, which is the limit").into()
            }
            Self::BodyTooSlow(limit) => {
                format!("the body did not arrive within {} seconds", limit.as_secs()).into()
            }
            Self::Unserved(_) => "the request could not be served".into(),
            Self::Broker(error) => error.to_string().into(),
        }
    }

    /// The one that a response stands for.
    pub(super) fn take_from(response: &mut Response) -> Option<Self> {
        response.extensions_mut().remove::<Arc<Self>>().and_then(Arc::into_inner)
    }

    /// Whole seconds after which the next request is taken.
    pub(crate) fn seconds(wait: Duration) -> u64 {
        (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
    }
}

impl IntoResponse for Rejection {
    /// A response that the outermost layer has the front end render.
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<broker::Error> for Rejection {
    fn from(error: broker::Error) -> Self {
        Self::Broker(error)
    }
}
