//! A body that carries leased messages.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::broker::Lease;

/// Bytes that a client is waiting for. If the connection is gone before they are asked for, they
/// are dropped together with the lease, which gives the messages back.
pub(super) struct LeasedBody {
    bytes: Option<Bytes>,
    lease: Lease,
}

impl LeasedBody {
    pub(super) fn new(bytes: Bytes, lease: Lease) -> Self {
        Self { bytes: Some(bytes), lease }
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
