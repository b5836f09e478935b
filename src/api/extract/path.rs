//! What stands in a path.

use axum::{
    extract::{FromRequestParts, RawPathParams},
    http::request::Parts,
};

use crate::domain::{GivenMsgId, MsgId, QueueName};

use super::super::problem::Problem;

/// `/queues/{queue}/messages/{msg_id}`.
pub(in crate::api) struct OneMessage(pub(in crate::api) MsgId);

/// `/topics/{routing_key}`.
pub(in crate::api) struct RoutingKey(pub(in crate::api) String);

impl<S: Send + Sync> FromRequestParts<S> for RoutingKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = parameters(parts, state).await?;
        let key = named(&parameters, "routing_key");
        check_text("routing key", key)?;
        Ok(Self(key.to_owned()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OneMessage {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = parameters(parts, state).await?;
        let id = named(&parameters, "msg_id").parse::<GivenMsgId>();
        let id = id.map_err(|e| Problem::invalid(format!("`msg_id` {e}")))?;
        Ok(Self(MsgId::saturating(id.get())))
    }
}

/// Refuses what is no text in PostgreSQL.
pub(in crate::api) fn check_text(what: &str, text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid(format!("`{what}` must not contain NUL")));
    }
    Ok(())
}

async fn parameters<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<RawPathParams, Problem> {
    let parameters = RawPathParams::from_request_parts(parts, state).await;
    parameters
        .map_err(|_| Problem::invalid("the path is not valid UTF-8 once its %-escapes are undone"))
}

fn named<'a>(parameters: &'a RawPathParams, name: &str) -> &'a str {
    parameters.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
}

/// The `{queue}` of a path.
pub(in crate::api) async fn queue<S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
) -> Result<QueueName, Problem> {
    let parameters = parameters(parts, state).await?;
    let name = named(&parameters, "queue");
    QueueName::parse(name).map_err(|reason| Problem::invalid(format!("queue `{name}`: {reason}")))
}
