//! A connection of HTTP/1 that is not asked once more when the last part of a body is taken.
//!
//! hyper wakes a connection whenever a part of a body is taken, so that it reads the next one. Behind the last
//! there is none, and the connection with all that it serves would be asked for nothing, once for each request
//! that has a body.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

thread_local! {
    /// While a body is asked on this thread: whom that would have woken.
    static ASKED: RefCell<Option<Vec<Waker>>> = const { RefCell::new(None) };
}

/// A body of a request, of which the last part wakes nobody.
pub(super) struct QuietBody<B>(pub(super) B);

impl<B: Body<Data = Bytes> + Unpin> Body for QuietBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let body = &mut self.get_mut().0;
        ASKED.set(Some(Vec::new()));
        let frame = Pin::new(&mut *body).poll_frame(cx);
        let woken = ASKED.take().unwrap_or_default();
        let is_last = matches!(frame, Poll::Ready(Some(Ok(_)))) && body.is_end_stream();
        if !is_last {
            woken.into_iter().for_each(Waker::wake);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A connection that serves such bodies.
pub(super) struct QuietConnection<C> {
    pub(super) connection: C,
    /// Who asks it, and how that is woken.
    waker: Option<(Waker, Waker)>,
}

impl<C> QuietConnection<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, waker: None }
    }
}

impl<C: Future + Unpin> Future for QuietConnection<C> {
    type Output = C::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = self.get_mut();
        let known = this.waker.take().filter(|(task, _)| task.will_wake(cx.waker()));
        let (_, waker) = this.waker.insert(known.unwrap_or_else(|| {
            let task = cx.waker().clone();
            (task.clone(), Arc::new(QuietWaker(task)).into())
        }));
        Pin::new(&mut this.connection).poll(&mut Context::from_waker(waker))
    }
}

/// Wakes whoever asks a connection, unless a body is asked meanwhile.
struct QuietWaker(Waker);

impl Wake for QuietWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let put_off = ASKED.with_borrow_mut(|asked| {
            asked.as_mut().map(|woken| woken.push(self.0.clone())).is_some()
        });
        if !put_off {
            self.0.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use http_body_util::BodyExt;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// So many parts, with each of which its connection is woken.
    struct Parts(usize, Waker);

    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.1.wake_by_ref();
            if self.0 == 0 {
                return Poll::Pending;
            }
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part")))))
        }

        fn is_end_stream(&self) -> bool {
            self.0 == 0
        }
    }

    #[tokio::test]
    async fn only_the_last_part_wakes_nobody() {
        let task = Arc::new(Count::default());
        let mut of_connection = None;
        let mut connection = QuietConnection::new(std::future::poll_fn(|cx: &mut Context<'_>| {
            of_connection = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        let waker = task.clone().into();
        assert!(Pin::new(&mut connection).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(connection);
        let of_connection = of_connection.expect("it was asked");
        let woken = || task.0.load(Relaxed);
        let mut body = QuietBody(Parts(2, of_connection.clone()));
        body.frame().await.expect("a part").expect("a part");
        assert_eq!(woken(), 1, "there is another");
        body.frame().await.expect("a part").expect("a part");
        assert_eq!(woken(), 1, "it was the last");
        // It waits for more than there is: that is for its connection to see to.
        let mut body = QuietBody(Parts(0, of_connection.clone()));
        assert!(
            Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop())).is_pending()
        );
        assert_eq!(woken(), 2);
        of_connection.wake();
        assert_eq!(woken(), 3);
    }
}
