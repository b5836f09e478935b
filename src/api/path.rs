//! What stands in a path.

use std::collections::HashMap;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

use crate::domain::{MsgId, QueueName};

use super::{context::context, problem::Problem};

/// `/queues/{queue}/messages/{msg_id}`.
pub(super) struct OneMessage(pub(super) MsgId);

/// `/topics/{routing_key}`.
pub(super) struct RoutingKey(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for RoutingKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let mut parameters = parameters(parts, state).await?;
        let key = parameters.remove("routing_key").unwrap_or_default();
        check_text("routing key", &key)?;
        Ok(Self(key))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OneMessage {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = parameters(parts, state).await?;
        let text = parameters.get("msg_id").map_or("", String::as_str);
        let id = text.parse().map_err(|e| Problem::invalid(format!("`msg_id` {e}")))?;
        Ok(Self(id))
    }
}

/// Refuses what is no text in PostgreSQL.
pub(super) fn check_text(what: &str, text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid(format!("`{what}` must not contain NUL")));
    }
    Ok(())
}

async fn parameters<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<HashMap<String, String>, Problem> {
    match Path::from_request_parts(parts, state).await {
        Ok(Path(parameters)) => Ok(parameters),
        Err(_) => {
            Err(Problem::invalid("the path is not valid UTF-8 once its %-escapes are undone"))
        }
    }
}

/// The `{queue}` of a path.
pub(super) async fn queue<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<QueueName, Problem> {
    let parameters = parameters(parts, state).await?;
    let name = parameters.get("queue").map_or("", String::as_str);
    let queue = QueueName::parse(name)
        .map_err(|reason| Problem::invalid(format!("queue `{name}`: {reason}")))?;
    // Set once: a request is about one queue.
    let _ = context(parts).queue.set(queue.to_string());
    Ok(queue)
}
