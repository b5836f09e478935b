//! An error in a front end's own form, on its way to the outermost layer, which knows the request's id
//! and logs it.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc};

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

/// A front end's own form of an error.
pub(crate) trait WireError: fmt::Debug + Send + Sync + 'static {
    /// The word for it, in logs; one of a few.
    fn code(&self) -> &'static str;

    /// What caused it, for the log alone.
    fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)>;

    /// Whether the caller is refused for now alone, where the status of the response does not say so.
    fn is_for_now(&self) -> bool {
        false
    }

    /// The response as the client gets it.
    fn render(&self, request_id: &str) -> Response;
}

/// A response that is to be rendered yet.
#[derive(Clone, Debug)]
struct Unrendered(Arc<dyn WireError>);

/// A response of this status that the outermost layer renders. What else it has by then of headers for
/// CORS and of `Allow` stays.
pub(crate) fn error_response(status: StatusCode, error: impl WireError) -> Response {
    let mut response = status.into_response();
    response.extensions_mut().insert(Unrendered(Arc::new(error)));
    response
}

/// What went wrong, where a response says so by way of [`error_response`].
pub(super) fn error_of(response: &Response) -> Option<Arc<dyn WireError>> {
    response.extensions().get::<Unrendered>().map(|error| Arc::clone(&error.0))
}

/// The most characters of a text in an error.
const MAX_DETAIL: usize = 1_000;

/// Cuts a text that repeats more of a request than anybody wants to read.
pub(crate) fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_DETAIL) {
        text.truncate(end);
        text.shrink_to_fit();
        text.push('…');
    }
}

/// The same of a text that may be one of ours.
pub(crate) fn shortened(text: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
    let mut text = text.into();
    if let Cow::Owned(owned) = &mut text {
        shorten(owned);
    }
    text
}
