//! A body that carries messages.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::{
    broker::Lease,
    domain::{Call, QueueName},
    telemetry::{MessageEvent, Metrics},
};

/// Bytes that a client is waiting for. If the connection is gone before they are asked for, they
/// are dropped together with the lease, which gives the messages back. What was handed over is counted.
///
/// With HTTP/2 a first part is asked for whether or not its client takes anything, and the next one once that is on
/// its way. So what is leased goes out in two parts there, and is taken when the second is asked for.
pub(crate) struct LeasedBody {
    first: Option<Bytes>,
    rest: Option<Bytes>,
    lease: Lease,
    delivered: DeliveryCount,
}

/// What is counted once it is on its way.
pub(crate) struct DeliveryCount {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) queue: QueueName,
    pub(crate) messages: usize,
}

impl LeasedBody {
    pub(crate) fn new(
        mut bytes: Bytes,
        lease: Lease,
        delivered: DeliveryCount,
        call: &Call,
    ) -> Self {
        let is_in_parts = call.is_asked_early() && lease.is_open() && bytes.len() > 1;
        let first = is_in_parts.then(|| bytes.split_to(1));
        Self { first, rest: Some(bytes), lease, delivered }
    }

    /// Of messages that are deleted already, and cannot be given back.
    pub(crate) fn without_lease(bytes: Bytes, delivered: DeliveryCount) -> Self {
        Self { first: None, rest: Some(bytes), lease: Lease::default(), delivered }
    }
}

impl Body for LeasedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let rest = self.rest.take();
        if rest.is_some() {
            self.lease.taken();
            let DeliveryCount { metrics, queue, messages } = &self.delivered;
            metrics.messages(queue.as_str(), MessageEvent::Received, *messages);
        }
        Poll::Ready(rest.map(|rest| Ok(Frame::data(rest))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let parts = self.first.iter().chain(&self.rest);
        SizeHint::with_exact(parts.map(|part| part.len() as u64).sum())
    }
}
