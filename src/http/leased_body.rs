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
    domain::QueueName,
    telemetry::{MessageEvent, Metrics},
};

/// Bytes that a client is waiting for. If the connection is gone before they are asked for, they
/// are dropped together with the lease, which gives the messages back. What was handed over is counted.
pub(crate) struct LeasedBody {
    bytes: Option<Bytes>,
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
    pub(crate) fn new(bytes: Bytes, lease: Lease, delivered: DeliveryCount) -> Self {
        Self { bytes: Some(bytes), lease, delivered }
    }

    /// Of messages that are deleted already, and cannot be given back.
    pub(crate) fn without_lease(bytes: Bytes, delivered: DeliveryCount) -> Self {
        Self::new(bytes, Lease::default(), delivered)
    }
}

impl Body for LeasedBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = self.bytes.take();
        if bytes.is_some() {
            self.lease.taken();
            let DeliveryCount { metrics, queue, messages } = &self.delivered;
            metrics.messages(queue.as_str(), MessageEvent::Received, *messages);
        }
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}
