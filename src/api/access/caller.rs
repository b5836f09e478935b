//! Who asks.

use std::sync::Arc;

use axum::http::{HeaderMap, header, request::Parts};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    auth::{Credential, Principal, Refusal, WaitingPlace},
    domain::{QueueName, RawJson, Right, Scope},
};

use super::{
    super::{
        context::{Leave, Purpose, RequestContext, context},
        edge::too_many,
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
            let _ = context.caller.set(Arc::clone(&principal));
            let id = principal.identity().fingerprint().caller_id();
            context.stats.set_caller(id);
            let counted = context.belongs_to(api.in_hand.usage(id));
            counted.map_err(|full| too_many(api, full))?;
        }
        if !context.has_body {
            context.body_is_here().map_err(|full| too_many(api, full))?;
        }
        let caller = Self { api: api.clone(), context, principal, credential };
        api.in_hand.pace().map_err(|wait| {
            api.metrics.refused("requests_per_second");
            Problem::rate_limited("this gateway gets more requests than it takes", wait)
        })?;
        caller.principal.admit().map_err(|refusal| caller.refused(refusal))?;
        Ok(caller)
    }

    /// Refuses what they may not do to a queue; with no right named, what nobody may who has none.
    pub(in crate::api) fn must(
        &self,
        right: Option<Right>,
        queue: &QueueName,
    ) -> Result<(), Problem> {
        if self.current()?.may(right, queue.as_str()) {
            return Ok(());
        }
        Err(forbidden(&self.api, lacks_on(right, queue)))
    }

    /// Whoever asks, with what they may do by now.
    fn current(&self) -> Result<Arc<Principal>, Problem> {
        if !self.principal.is_over() {
            return Ok(Arc::clone(&self.principal));
        }
        let again = self.api.access.identify(self.credential.as_ref());
        again.map_err(|_| unauthenticated())
    }

    /// Notes for what they were let in, as that may not hold any more once the body is there.
    pub(super) fn is_here_for(&self, purpose: Purpose) {
        let principal = Arc::clone(&self.principal);
        // Set once: a request is let in for one thing.
        let _ = self.context.leave.set(Leave { principal, purpose });
    }

    /// Does work on so many bytes for them, where much text is worked on.
    pub(in crate::api) async fn on_text<T: Send + 'static>(
        self,
        bytes: u64,
        work: impl FnOnce(Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let api = self.api.clone();
        api.text().run(bytes, move || work(self)).await?
    }

    /// A refusal for want of a right on any queue.
    pub(super) fn lacks(&self, right: Right) -> Problem {
        let right = right.as_str();
        self.forbidden(format!("this needs `{right}` on some queue, which the key lacks"))
    }

    /// Refuses headers that say that a message comes from a queue to which they may not send: a redrive
    /// would believe it. `at` names the message.
    pub(in crate::api) fn may_claim(
        &self,
        headers: Option<&RawJson>,
        at: &str,
    ) -> Result<(), Problem> {
        let Some(headers) = headers.filter(|_| !self.scope(Some(Right::Send)).is_all()) else {
            return Ok(());
        };
        // What is no object, or says it twice, is refused for that.
        let said =
            serde_json::from_str::<Claimed>(headers.get()).ok().map(|claimed| claimed.origin);
        let believed = match said {
            Some(None) => true,
            Some(Some(Value::String(origin))) => self.scope(Some(Right::Send)).contains(&origin),
            Some(Some(_)) | None => false,
        };
        if believed {
            return Ok(());
        }
        Err(self.forbidden(format!(
            "`{at}headers`: `x-dead-letter-queue` must name one queue to which the key may send"
        )))
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
        self.current().map_or(Scope::NOTHING, |current| current.scope(right))
    }

    /// A place among those of the key's clients that wait.
    pub(super) fn wait(&self) -> Result<WaitingPlace, Problem> {
        self.principal.wait().map_err(|refusal| self.refused(refusal))
    }

    /// Waits until the credential may not be in force any more.
    pub(super) async fn credential_ended(&self) {
        self.principal.ended().await;
    }

    /// Refuses whoever would not be let in any more.
    pub(super) async fn must_still_be_let_in(&self) -> Result<(), Problem> {
        let again = self.api.access.authenticate(self.credential.as_ref()).await;
        again.map(drop).map_err(|_| unauthenticated())
    }

    fn forbidden(&self, detail: String) -> Problem {
        forbidden(&self.api, detail)
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

/// What a message's headers say of where it comes from.
#[derive(Deserialize)]
struct Claimed {
    #[serde(default, rename = "x-dead-letter-queue")]
    origin: Option<Value>,
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

/// Refuses whoever has been let in, and would not be any more now that they have said it all: every body
/// that is read comes by here.
pub(in crate::api) async fn must_still_be_let_in(parts: &Parts, api: &Api) -> Result<(), Problem> {
    let context = context(parts);
    let Some(leave) = context.leave.get().filter(|leave| leave.principal.is_over()) else {
        return Ok(());
    };
    let again = api.access.authenticate(credential(&parts.headers).as_ref()).await;
    let again = again.map_err(|_| unauthenticated())?;
    match &leave.purpose {
        Purpose::Queue(right, queue) if !again.may(*right, queue.as_str()) => {
            Err(forbidden(api, lacks_on(*right, queue)))
        }
        Purpose::Scope(right, scope) if again.scope(*right) != *scope => {
            let detail = "what the key may do changed while the request came in; nothing was done";
            Err(forbidden(api, detail.to_owned()))
        }
        Purpose::Queue(..) | Purpose::Scope(..) | Purpose::InBody => Ok(()),
    }
}

fn lacks_on(right: Option<Right>, queue: &QueueName) -> String {
    let needed = right.map_or("any right", Right::as_str);
    format!("this needs `{needed}` on queue `{queue}`, which the key lacks")
}

fn forbidden(api: &Api, detail: String) -> Problem {
    api.metrics.refused("forbidden");
    Problem::new(Code::Forbidden, detail)
}

/// The one answer to whoever has no credential in force, whatever is wrong with it.
fn unauthenticated() -> Problem {
    let detail = "a valid key is needed: `Authorization: Bearer <key>`, or HTTP Basic with the key as \
                  password";
    Problem::new(Code::Unauthenticated, detail)
}
