//! Who asks.

use std::sync::Arc;

use axum::http::{HeaderMap, header, request::Parts};

use crate::{
    auth::{Credential, Principal, Refusal, WaitingPlace},
    domain::{QueueName, Right, Scope},
};

use super::{
    super::{
        context::{RequestContext, context},
        problem::{Code, Problem},
    },
    Api,
};

/// Whoever asks, once they were let in.
pub(in crate::api) struct Caller {
    pub(super) api: Api,
    pub(super) context: Arc<RequestContext>,
    principal: Arc<Principal>,
    credential: Option<Credential>,
}

impl Caller {
    /// Lets somebody in, or not.
    pub(super) async fn of(parts: &Parts, api: &Api) -> Result<Self, Problem> {
        let credential = credential(&parts.headers);
        let found = api.access.authenticate(credential.as_ref()).await;
        let principal = found.map_err(|_| {
            api.metrics.refused("unauthenticated");
            unauthenticated()
        })?;
        let context = context(parts);
        if api.access.is_required() {
            // Set once: a request has one caller.
            let _ = context.caller.set(principal.name().to_owned());
        }
        let caller = Self { api: api.clone(), context, principal, credential };
        caller.principal.admit().map_err(|refusal| caller.refused(refusal))?;
        Ok(caller)
    }

    /// Refuses what they may not do to a queue; with no right named, what nobody may who has none.
    pub(in crate::api) fn must(
        &self,
        right: Option<Right>,
        queue: &QueueName,
    ) -> Result<(), Problem> {
        if self.principal.may(right, queue.as_str()) {
            return Ok(());
        }
        let needed = right.map_or("any right", Right::as_str);
        Err(self
            .forbidden(format!("this needs `{needed}` on queue `{queue}`, which the key lacks")))
    }

    /// Refuses what concerns the gateway as a whole to those who may not see it.
    pub(super) fn must_operate(&self) -> Result<(), Problem> {
        if self.principal.may_see_operations() {
            return Ok(());
        }
        Err(self.forbidden("this needs `admin` on every queue, which the key lacks".to_owned()))
    }

    /// The queues to which they may do something.
    pub(in crate::api) fn scope(&self, right: Option<Right>) -> Scope {
        self.principal.scope(right)
    }

    /// A place among those of the key's clients that wait.
    pub(super) fn wait(&self) -> Result<WaitingPlace, Problem> {
        self.principal.wait().map_err(|refusal| self.refused(refusal))
    }

    /// Waits until the credential may not be in force any more, and says whether it is.
    pub(super) async fn credential_changed(&self) -> Result<(), Problem> {
        self.principal.ended().await;
        let again = self.api.access.authenticate(self.credential.as_ref()).await;
        again.map(drop).map_err(|_| unauthenticated())
    }

    fn forbidden(&self, detail: String) -> Problem {
        self.api.metrics.refused("forbidden");
        Problem::new(Code::Forbidden, detail)
    }

    fn refused(&self, refusal: Refusal) -> Problem {
        match refusal {
            Refusal::Rate(wait) => {
                self.api.metrics.refused("key_requests_per_second");
                Problem::rate_limited("this key makes more requests than it may", wait)
            }
            Refusal::Waiters(most) => {
                self.api.metrics.refused("key_max_waiters");
                let detail = format!("{most} clients wait with this key, as many as may");
                Problem::new(Code::Overloaded, detail)
            }
        }
    }
}

fn credential(headers: &HeaderMap) -> Option<Credential> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let first = given.next()?;
    // Two are ambiguous, and so none.
    if given.next().is_some() {
        return None;
    }
    Credential::parse(first.to_str().ok()?)
}

/// The one answer to whoever has no credential in force, whatever is wrong with it.
fn unauthenticated() -> Problem {
    let detail = "a valid key is needed: `Authorization: Bearer <key>`, or HTTP Basic with the key as \
                  password";
    Problem::new(Code::Unauthenticated, detail)
}
