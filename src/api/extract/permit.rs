//! Permits, as a handler's signature asks for them: of whoever shows a credential in `Authorization`.

use axum::{extract::FromRequestParts, http::request::Parts};

use crate::http::{
    Caller, MultiQueuePermit, QueuePermit, ScopePermit, bearer, right::RequiredRight,
};

use super::{
    super::{problem::Problem, state::Api},
    path::queue,
};

async fn caller(parts: &Parts, api: &Api) -> Result<Caller, Problem> {
    Ok(Caller::authenticate(parts, api, bearer(&parts.headers)).await?)
}

/// For the queue that the path names.
impl<R: RequiredRight> FromRequestParts<Api> for QueuePermit<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = caller(parts, api).await?;
        let queue = queue(parts, api).await?;
        Ok(Self::new(caller, queue)?)
    }
}

impl<R: RequiredRight> FromRequestParts<Api> for ScopePermit<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Ok(Self::new(caller(parts, api).await?)?)
    }
}

impl FromRequestParts<Api> for MultiQueuePermit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Ok(Self::new(caller(parts, api).await?))
    }
}

/// Leave to see what concerns the gateway as a whole; whoever reaches the listener for operations has
/// it.
pub(in crate::api) struct Operator;

/// Marks a request that came in by the listener for operations, where nobody is asked for a key.
#[derive(Clone)]
pub(in crate::api) struct ForOperations;

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        if parts.extensions.get::<ForOperations>().is_none() {
            caller(parts, api).await?.require_operator()?;
        }
        Ok(Self)
    }
}
