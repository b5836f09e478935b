//! Who asks.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::ConnectInfo,
    http::{HeaderMap, header, request::Parts},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    auth::{Credential, Fingerprint, Principal, Refusal, Unauthenticated, WaitingPlace},
    broker,
    domain::{CallerId, QueueName, RawJson, Right, Scope, SettingsChange},
};

use super::{
    super::{
        admission::{Exhausted, Full},
        context::{Leave, Purpose, RequestContext, context},
        gate::Gate,
        rejection::Rejection,
        unwanted,
    },
    gated_broker::GatedBroker,
};

/// Whoever asks, once they were let in.
pub(crate) struct Caller {
    pub(super) gated: GatedBroker,
    pub(super) context: Arc<RequestContext>,
    principal: Arc<Principal>,
    credential: Option<Credential>,
}

impl Caller {
    /// Lets in whoever shows this credential, or not. The request counts as theirs from now on, and against
    /// what they and all together may do in a second.
    pub(crate) async fn authenticate(
        parts: &Parts,
        gated: &GatedBroker,
        credential: Option<Credential>,
    ) -> Result<Self, Rejection> {
        let found = gated.access.authenticate(credential.as_ref()).await;
        let caller = Self::new(parts, gated, credential, found)?;
        if gated.access.is_required() {
            let usage = gated.concurrency.usage(caller.note_identity());
            let counted = caller.context.belongs_to(usage);
            counted.map_err(|full| too_many(gated, full))?;
        }
        caller.refuse_body(parts).await?;
        caller.begin()?;
        caller.check_rates()?;
        Ok(caller)
    }

    /// The same for one who names a key, and has yet to prove by a signature of the body that it is theirs: the id
    /// of a key is no secret. Until [`Self::prove`] nothing may be done for them, and what they send counts as that
    /// of whoever names this key from where they are, and takes nothing from its owner.
    pub(crate) fn claimed(
        parts: &Parts,
        gated: &GatedBroker,
        credential: Credential,
        key_id: &str,
    ) -> Result<Self, Rejection> {
        let found = gated.access.find(Some(&credential));
        let caller = Self::new(parts, gated, Some(credential), found)?;
        let peer = parts.extensions.get::<ConnectInfo<Option<IpAddr>>>();
        let id = Fingerprint::of_claim(key_id, peer.and_then(|peer| peer.0)).caller_id();
        // Set once: a request names one key.
        let _ = caller.context.claimed.set(id);
        let counted = caller.context.belongs_to(gated.concurrency.usage(id));
        counted.map_err(|full| too_many(gated, full))?;
        caller.begin()?;
        Ok(caller)
    }

    /// They have proven who they are: from now on the request and its body count as theirs, and against what they
    /// and all together may do in a second.
    pub(crate) fn prove(&self) -> Result<(), Rejection> {
        self.principal.used();
        let usage = self.gated.concurrency.usage(self.note_identity());
        self.context.moves_to(&usage).map_err(|full| too_many(&self.gated, full))?;
        let moved = self.context.body_moves_to(&usage);
        moved.map_err(|exhausted| too_many_bytes(&self.gated, exhausted))?;
        self.check_rates()
    }

    fn new(
        parts: &Parts,
        gated: &GatedBroker,
        credential: Option<Credential>,
        found: Result<Arc<Principal>, Unauthenticated>,
    ) -> Result<Self, Rejection> {
        let principal = found.map_err(|_| {
            gated.metrics.refused("unauthenticated");
            Rejection::Unauthenticated
        })?;
        Ok(Self { gated: gated.clone(), context: context(parts), principal, credential })
    }

    /// Notes whose request it is, and tells what stands for them.
    fn note_identity(&self) -> CallerId {
        // Set once: a request has one caller.
        let _ = self.context.caller.set(Arc::clone(&self.principal));
        let id = self.principal.identity().fingerprint().caller_id();
        self.context.call.set_caller(id);
        id
    }

    /// Refuses a body where none is taken, for which whoever sends it may be waited for.
    pub(crate) async fn refuse_body(&self, parts: &Parts) -> Result<(), Rejection> {
        unwanted::refuse(parts, &self.context).await
    }

    /// Counts a request that has no body among those that are served.
    fn begin(&self) -> Result<(), Rejection> {
        if self.context.has_body() {
            return Ok(());
        }
        self.context.body_is_here().map_err(|full| too_many(&self.gated, full))
    }

    /// Counts a request whose body has to be read before it is known whose it is: all who have yet to say who
    /// they are have one share together, so that they leave the rest to those who are known.
    pub(crate) fn count_stranger(parts: &Parts, gate: &Gate) -> Result<(), Rejection> {
        if !gate.access.is_required() {
            return Ok(());
        }
        let (context, id) = (context(parts), RequestContext::nobody().caller_id());
        context.call.set_caller(id);
        context.belongs_to(gate.concurrency.usage(id)).map_err(|full| too_many(gate, full))
    }

    /// Counts the request against what they and all together may do in a second.
    fn check_rates(&self) -> Result<(), Rejection> {
        // Their own first: what is over that costs nobody else.
        self.principal.admit().map_err(|refusal| self.refused(refusal))?;
        self.gated.concurrency.check_rate().map_err(|wait| {
            self.gated.metrics.refused("requests_per_second");
            Rejection::RateLimited { detail: "this gateway gets more requests than it takes", wait }
        })
    }

    /// Refuses what they may not do to a queue; with no right named, what nobody may who has none.
    pub(crate) fn require(&self, right: Option<Right>, queue: &QueueName) -> Result<(), Rejection> {
        if self.current()?.may(right, queue.as_str()) {
            return Ok(());
        }
        Err(forbidden(&self.gated, lacks_on(right, queue)))
    }

    /// What the logs call them.
    pub(crate) fn name(&self) -> &str {
        self.principal.identity().name()
    }

    /// Whether they may see what concerns the gateway as a whole.
    pub(crate) fn is_operator(&self) -> bool {
        self.current().is_ok_and(|current| current.may_see_operations())
    }

    /// Whether they may do something to a queue, for those who show what may be done.
    pub(crate) fn may(&self, right: Option<Right>, queue: &str) -> bool {
        self.current().is_ok_and(|current| current.may(right, queue))
    }

    /// Whether they would be let in by now, for those who tell them something for long.
    pub(crate) fn is_in_force(&self) -> bool {
        self.gated.access.identify(self.credential.as_ref()).is_ok()
    }

    /// Whoever asks, with what they may do by now.
    fn current(&self) -> Result<Arc<Principal>, Rejection> {
        if !self.principal.is_over() {
            return Ok(Arc::clone(&self.principal));
        }
        let again = self.gated.access.identify(self.credential.as_ref());
        again.map_err(|_| Rejection::Unauthenticated)
    }

    /// Notes for what they were let in, as that may not hold any more once the body is there.
    pub(super) fn admitted_for(&self, purpose: Purpose) {
        let (principal, credential) = (Arc::clone(&self.principal), self.credential.clone());
        // Set once: a request is let in for one thing.
        let _ = self.context.leave.set(Leave { principal, credential, purpose });
    }

    /// Notes the queue that the request is about, for its log line.
    pub(super) fn names_queue(&self, queue: &QueueName) {
        // Set once: a request is about one queue.
        let _ = self.context.queue.set(queue.as_str().to_owned());
    }

    /// Does work on so many bytes for them, where much text is worked on.
    pub(crate) async fn on_text<T: Send + 'static, E: From<broker::Error> + Send + 'static>(
        self,
        bytes: u64,
        work: impl FnOnce(Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let gate = Gate::clone(&self.gated);
        gate.cpu_pool.run(bytes, move || work(self)).await?
    }

    /// A refusal for want of a right on any queue.
    pub(super) fn lacks(&self, right: Right) -> Rejection {
        let right = right.as_str();
        self.forbidden(format!("this needs `{right}` on some queue, which the key lacks"))
    }

    /// Refuses headers that say that a message comes from a queue to which they may not send: a redrive
    /// would believe it. `at` names the message.
    pub(crate) fn authorize_origin_headers(
        &self,
        headers: Option<&RawJson>,
        at: &str,
    ) -> Result<(), Rejection> {
        let Some(headers) = headers.filter(|_| !self.scope(Some(Right::Send)).is_all()) else {
            return Ok(());
        };
        // What is no object, or says it twice, is refused for that.
        let believed = serde_json::from_str::<Claimed<'_>>(headers.get()).is_ok_and(|claimed| {
            let Some(origin) = claimed.origin else { return true };
            // Anything else than a text is not taken to pieces: it may be as large as a body.
            serde_json::from_str::<String>(origin.get())
                .is_ok_and(|origin| self.scope(Some(Right::Send)).contains(&origin))
        });
        if believed {
            return Ok(());
        }
        Err(self.forbidden(format!(
            "`{at}headers`: `x-dead-letter-queue` must name one queue to which the key may send"
        )))
    }

    /// Refuses a dead-letter queue to those who may not take messages from the one and put them into the other:
    /// where dead letters go they can be read.
    pub(crate) fn authorize_dead_letter_target(
        &self,
        queue: &QueueName,
        settings: &SettingsChange,
    ) -> Result<(), Rejection> {
        let Some(target) = settings.dead_letter_queue.as_ref().and_then(Option::as_ref) else {
            return Ok(());
        };
        self.require(Some(Right::Receive), queue)?;
        self.require(Some(Right::Send), &target.0)
    }

    /// Refuses what concerns the gateway as a whole to those who may not see it.
    pub(crate) fn require_operator(&self) -> Result<(), Rejection> {
        if self.principal.may_see_operations() {
            return Ok(());
        }
        Err(self.forbidden("this needs `admin` on every queue, which the key lacks".to_owned()))
    }

    /// The queues to which they may do something.
    pub(crate) fn scope(&self, right: Option<Right>) -> Scope {
        self.current().map_or(Scope::NOTHING, |current| current.scope(right))
    }

    /// A place among those of the key's clients that wait.
    pub(super) fn wait(&self) -> Result<WaitingPlace, Rejection> {
        self.principal.wait().map_err(|refusal| self.refused(refusal))
    }

    /// Waits until the credential may not be in force any more.
    pub(super) async fn credential_ended(&self) {
        self.principal.ended().await;
    }

    /// Refuses whoever would not be let in any more.
    pub(super) async fn recheck_credential(&self) -> Result<(), Rejection> {
        let again = self.gated.access.authenticate(self.credential.as_ref()).await;
        again.map(drop).map_err(|_| Rejection::Unauthenticated)
    }

    fn forbidden(&self, detail: String) -> Rejection {
        forbidden(&self.gated, detail)
    }

    fn refused(&self, refusal: Refusal) -> Rejection {
        match refusal {
            Refusal::Rate(wait) => {
                self.gated.metrics.refused("key_requests_per_second");
                Rejection::RateLimited { detail: "this key makes more requests than it may", wait }
            }
            Refusal::Waiters(most) => {
                self.gated.metrics.refused("key_max_waiters");
                let detail = format!("{most} clients wait with this key, as many as may");
                Rejection::Overloaded(detail.into())
            }
        }
    }
}

/// What a message's headers say of where it comes from.
#[derive(Deserialize)]
struct Claimed<'a> {
    #[serde(borrow, default, rename = "x-dead-letter-queue")]
    origin: Option<&'a RawValue>,
}

/// A key or a token that stands by itself in some header; none if it is empty or too long.
pub(crate) fn key_of(text: &str) -> Option<Credential> {
    Credential::parse(&format!("Bearer {text}"))
}

/// The credential of `Authorization`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<Credential> {
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
pub(in crate::http) fn recheck_credential(
    context: &RequestContext,
    gate: &Gate,
) -> Result<(), Rejection> {
    let Some(leave) = context.leave.get().filter(|leave| leave.principal.is_over()) else {
        return Ok(());
    };
    let again = gate.access.find(leave.credential.as_ref());
    let again = again.map_err(|_| Rejection::Unauthenticated)?;
    match &leave.purpose {
        Purpose::Queue(right, queue) if !again.may(*right, queue.as_str()) => {
            Err(forbidden(gate, lacks_on(*right, queue)))
        }
        Purpose::Scope(right, scope) if again.scope(*right) != *scope => {
            let detail = "what the key may do changed while the request came in; nothing was done";
            Err(forbidden(gate, detail.to_owned()))
        }
        Purpose::Queue(..) | Purpose::Scope(..) | Purpose::InBody => Ok(()),
    }
}

/// There are as many requests as may be, of all or of one caller.
pub(in crate::http) fn too_many(gate: &Gate, full: Full) -> Rejection {
    let (limit, detail) = full.explain();
    gate.metrics.refused(limit);
    Rejection::Overloaded(detail.into())
}

/// The same of bytes.
pub(in crate::http) fn too_many_bytes(gate: &Gate, exhausted: Exhausted) -> Rejection {
    match exhausted {
        Exhausted::ForAll => {
            gate.metrics.refused("max_in_flight_bytes");
            let detail = "the requests in hand hold as many bytes as this gateway has room for; try \
                          again in a moment";
            Rejection::Overloaded(detail.into())
        }
        Exhausted::ForCaller(most) => {
            gate.metrics.refused("key_in_flight_bytes");
            let detail = format!(
                "the requests of this key hold {most} bytes, as many as may be; try again in a moment"
            );
            Rejection::Overloaded(detail.into())
        }
    }
}

fn lacks_on(right: Option<Right>, queue: &QueueName) -> String {
    let needed = right.map_or("any right", Right::as_str);
    format!("this needs `{needed}` on queue `{queue}`, which the key lacks")
}

fn forbidden(gate: &Gate, detail: String) -> Rejection {
    gate.metrics.refused("forbidden");
    Rejection::Forbidden(detail.into())
}
