//! Leave for one kind of operation, as a handler's signature asks for it.

use std::{future::Future, marker::PhantomData, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};

use crate::{
    auth::WaitingPlace,
    broker::Broker,
    domain::{CallStats, QueueName, Right, Scope},
};

use super::{
    super::{context::Purpose, edge::is_for_operations, path::queue, problem::Problem},
    Api, Caller,
};

/// What a handler wants to do.
pub(in crate::api) trait Wish {
    /// The right that it takes; any will do where none is named.
    const RIGHT: Option<Right>;
}

/// To store messages.
pub(in crate::api) struct ToSend;
/// To take messages, look at them, or say what became of them.
pub(in crate::api) struct ToReceive;
/// To make, change, empty, drop or bind a queue, or take messages back.
pub(in crate::api) struct ToManage;
/// To see that there is a queue, and how full it is.
pub(in crate::api) struct ToSee;

impl Wish for ToSend {
    const RIGHT: Option<Right> = Some(Right::Send);
}

impl Wish for ToReceive {
    const RIGHT: Option<Right> = Some(Right::Receive);
}

impl Wish for ToManage {
    const RIGHT: Option<Right> = Some(Right::Manage);
}

impl Wish for ToSee {
    const RIGHT: Option<Right> = None;
}

/// Leave to do something to the queue that the path names.
pub(in crate::api) struct On<W> {
    pub(in crate::api) broker: Broker,
    pub(in crate::api) stats: Arc<CallStats>,
    pub(in crate::api) queue: QueueName,
    pub(in crate::api) caller: Caller,
    _wish: PhantomData<W>,
}

/// Leave to do something to those queues to which the caller may.
pub(in crate::api) struct Over<W> {
    pub(in crate::api) broker: Broker,
    pub(in crate::api) stats: Arc<CallStats>,
    pub(in crate::api) scope: Scope,
    pub(in crate::api) caller: Caller,
    _wish: PhantomData<W>,
}

/// A caller who will say of each queue what they want to do to it.
pub(in crate::api) struct Across(Caller);

/// Leave to see what concerns the gateway as a whole; whoever reaches the listener for operations has
/// it.
pub(in crate::api) struct Operator;

impl<W: Wish> FromRequestParts<Api> for On<W> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = Caller::of(parts, api).await?;
        let queue = queue(parts, api).await?;
        caller.must(W::RIGHT, &queue)?;
        caller.is_here_for(Purpose::Queue(W::RIGHT, queue.clone()));
        let (broker, stats) = (api.broker.clone(), Arc::clone(&caller.context.stats));
        Ok(Self { broker, stats, queue, caller, _wish: PhantomData })
    }
}

impl<W: Wish> FromRequestParts<Api> for Over<W> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = Caller::of(parts, api).await?;
        let (broker, stats) = (api.broker.clone(), Arc::clone(&caller.context.stats));
        let scope = caller.scope(W::RIGHT);
        if let Some(right) = W::RIGHT.filter(|_| scope.is_nothing()) {
            return Err(caller.lacks(right));
        }
        caller.is_here_for(Purpose::Scope(W::RIGHT, scope.clone()));
        Ok(Self { broker, stats, scope, caller, _wish: PhantomData })
    }
}

impl FromRequestParts<Api> for Across {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = Caller::of(parts, api).await?;
        caller.is_here_for(Purpose::InBody);
        Ok(Self(caller))
    }
}

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        if is_for_operations(&parts.extensions) {
            return Ok(Self);
        }
        Caller::of(parts, api).await?.must_operate().map(|()| Self)
    }
}

impl Across {
    /// Who asks.
    pub(in crate::api) fn caller(&self) -> &Caller {
        &self.0
    }

    /// Does work on so many bytes for them, where much text is worked on.
    pub(in crate::api) async fn on_text<T: Send + 'static>(
        self,
        bytes: u64,
        work: impl FnOnce(Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.0.on_text(bytes, move |caller| work(Self(caller))).await
    }

    /// Leave for all of it, or for none. The place of what is refused is told.
    pub(in crate::api) fn for_all<'a>(
        self,
        wishes: impl IntoIterator<Item = (Right, &'a QueueName)>,
    ) -> Result<(Broker, Arc<CallStats>), Problem> {
        for (index, (right, queue)) in wishes.into_iter().enumerate() {
            self.0.must(Some(right), queue).map_err(|problem| Problem {
                detail: format!("`operations[{index}]`: {}; nothing was done", problem.detail)
                    .into(),
                operation: Some(index),
                ..problem
            })?;
        }
        Ok((self.0.api.broker.clone(), Arc::clone(&self.0.context.stats)))
    }
}

impl<W> On<W> {
    /// A place for a client that is going to wait, which from now on does not count among the
    /// requests in hand.
    pub(in crate::api) fn wait(&self) -> Result<WaitingPlace, Problem> {
        let place = self.caller.wait()?;
        self.caller.context.waits();
        Ok(place)
    }

    /// Waits for something, but no longer than the credential is in force. `None` where it changed,
    /// and still lets its owner in.
    pub(in crate::api) async fn while_let_in<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Problem> {
        tokio::select! {
            biased;
            done = work => return Ok(Some(done)),
            () = self.caller.credential_ended() => {}
        }
        self.caller.must_still_be_let_in().await.map(|()| None)
    }
}
