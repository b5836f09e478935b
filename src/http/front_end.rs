//! What is a front end's own in what every request passes.

use std::sync::Arc;

use super::{rejection::Rejection, wire_error::WireError};

/// A front end, as the shared layers need to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrontEnd {
    /// Gives what the shared layers refuse the form of its errors.
    pub(crate) reject: fn(Rejection) -> Arc<dyn WireError>,
    /// Routes that a browser may not GET for a page of another site.
    pub(crate) guarded_reads: &'static [&'static str],
    /// Media types of which a browser asks before it sends them for a page of another site.
    pub(crate) media_types: &'static [&'static str],
    /// What is told of a request of such a page that is refused.
    pub(crate) foreign_form: &'static str,
    /// What paths begin with whose responses nobody may keep.
    pub(crate) no_store: &'static [&'static str],
    /// Headers that a page which may use the gateway may send, in lower case.
    pub(crate) request_headers: &'static [&'static str],
    /// Headers of responses that such a page may read, in lower case.
    pub(crate) response_headers: &'static [&'static str],
    /// Whether JSON ends with a line end for those who see it in a terminal.
    pub(crate) line_ends: bool,
    /// Whether it is for operators alone, who are answered however many others ask.
    pub(crate) is_for_operations: bool,
}
