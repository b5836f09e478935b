//! The pages: one file each.

pub(super) mod act;
pub(super) mod files;
pub(super) mod gateway;
pub(super) mod history;
pub(super) mod keys;
pub(super) mod message;
pub(super) mod messages;
pub(super) mod new_queue;
pub(super) mod queue;
pub(super) mod queues;
pub(super) mod send;
pub(super) mod settings;
pub(super) mod table;
pub(super) mod topics;

use axum::http::StatusCode;

use crate::domain::QueueName;

use super::{failure::Failure, viewer::Viewer};

/// The name in a path.
pub(super) fn queue_name(name: &str) -> Result<QueueName, Failure> {
    QueueName::parse(name).map_err(|reason| Failure::not_found(format!("`{name}`: {reason}")))
}

/// A path that no page has.
pub(super) async fn nothing_there(_: Viewer) -> Failure {
    Failure::not_found("There is no such page.")
}

/// A page that does not take this method.
pub(super) async fn method_not_allowed(_: Viewer) -> Failure {
    let detail = "This page is looked at with GET, or its form is sent with POST.";
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Not like this", detail)
}
