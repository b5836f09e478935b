//! What serves requests, as a listener has it.

use std::{convert::Infallible, sync::Arc};

use axum::{Router, extract::Request, routing::future::RouteFuture};
use tower::Service;

/// Answers requests: a router, or what chooses one (as a router, that would do all of a router's work twice).
pub type App = Arc<dyn Fn(Request) -> RouteFuture<Infallible> + Send + Sync>;

/// One that is a router.
pub fn app(router: Router) -> App {
    Arc::new(move |request| router.clone().call(request))
}
