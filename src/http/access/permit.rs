//! Permits: leave for one kind of operation, and with it the broker.

use std::{future::Future, marker::PhantomData, pin::Pin, sync::Arc};

use crate::{
    auth::WaitingPlace,
    broker::{self, Broker},
    domain::{Call, QueueName, Right, Scope},
};

use super::{
    super::{context::Purpose, rejection::Rejection},
    caller::Caller,
    right::RequiredRight,
};

/// Leave to do something to one queue.
pub(crate) struct QueuePermit<R> {
    pub(crate) broker: Broker,
    pub(crate) call: Arc<Call>,
    pub(crate) queue: QueueName,
    pub(crate) caller: Caller,
    _right: PhantomData<R>,
}

/// Leave to do something to those queues to which the caller may.
pub(crate) struct ScopePermit<R> {
    pub(crate) broker: Broker,
    pub(crate) call: Arc<Call>,
    pub(crate) scope: Scope,
    pub(crate) caller: Caller,
    _right: PhantomData<R>,
}

/// A caller who says in the body what they want to do to which queues. Where that turns out to be one,
/// [`QueuePermit::new`] takes the caller.
pub(crate) struct MultiQueuePermit {
    pub(crate) caller: Caller,
}

impl<R: RequiredRight> QueuePermit<R> {
    /// For a queue of this name, if its caller may, wherever the name stands in the request.
    pub(crate) fn new(caller: Caller, queue: QueueName) -> Result<Self, Rejection> {
        caller.names_queue(&queue);
        caller.require(R::RIGHT, &queue)?;
        caller.admitted_for(Purpose::Queue(R::RIGHT, queue.clone()));
        let (broker, call) = (caller.gated.broker.clone(), Arc::clone(&caller.context.call));
        Ok(Self { broker, call, queue, caller, _right: PhantomData })
    }
}

impl<R: RequiredRight> ScopePermit<R> {
    /// For all queues to which the caller may, unless that is none.
    pub(crate) fn new(caller: Caller) -> Result<Self, Rejection> {
        let scope = caller.scope(R::RIGHT);
        if let Some(right) = R::RIGHT.filter(|_| scope.is_nothing()) {
            return Err(caller.lacks(right));
        }
        caller.admitted_for(Purpose::Scope(R::RIGHT, scope.clone()));
        let (broker, call) = (caller.gated.broker.clone(), Arc::clone(&caller.context.call));
        Ok(Self { broker, call, scope, caller, _right: PhantomData })
    }
}

impl MultiQueuePermit {
    /// For whatever the body says, of which each is asked yet.
    pub(crate) fn new(caller: Caller) -> Self {
        caller.admitted_for(Purpose::InBody);
        Self { caller }
    }

    /// Does work on so many bytes for them, where much text is worked on.
    pub(crate) async fn on_text<T: Send + 'static, E: From<broker::Error> + Send + 'static>(
        self,
        bytes: u64,
        work: impl FnOnce(Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        self.caller.on_text(bytes, move |caller| work(Self { caller })).await
    }

    /// Leave for all of it, or for none: then the place is told of what is refused, from 0.
    pub(crate) fn for_all<'a>(
        self,
        operations: impl IntoIterator<Item = (Right, &'a QueueName)>,
    ) -> Result<(Broker, Arc<Call>), (usize, Rejection)> {
        for (index, (right, queue)) in operations.into_iter().enumerate() {
            self.caller.require(Some(right), queue).map_err(|rejection| (index, rejection))?;
        }
        Ok((self.caller.gated.broker.clone(), Arc::clone(&self.caller.context.call)))
    }
}

impl<R> QueuePermit<R> {
    /// A place for a client that is going to wait, which from now on does not count among the
    /// requests in flight.
    pub(crate) fn wait(&self) -> Result<WaitingPlace, Rejection> {
        let place = self.caller.wait()?;
        self.caller.context.waits();
        Ok(place)
    }

    /// Waits for something, but no longer than the credential is in force. `None` where it changed,
    /// and still lets its owner in. Whoever asks for it holds the work: by value, there would be room for it twice.
    pub(crate) async fn while_authorized<T>(
        &self,
        work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<Option<T>, Rejection> {
        tokio::select! {
            biased;
            done = work => return Ok(Some(done)),
            () = self.caller.credential_ended() => {}
        }
        self.caller.recheck_credential().await.map(|()| None)
    }
}
