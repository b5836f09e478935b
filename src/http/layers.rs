//! The layers that every request passes on its way in and out.

use axum::Router;
use tower::util::option_layer;

use super::{
    front_end::FrontEnd,
    gate::Gate,
    guard::{Guard, Served},
    origin::OriginPolicy,
    request_scope::RequestLayer,
};

/// Puts the shared layers around all routes of a front end, which are served under the names and for the
/// pages of `origins`. `served` says which methods its paths take.
pub(crate) fn layered<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    gate: &Gate,
    front_end: FrontEnd,
    origins: &OriginPolicy,
    served: Served,
) -> Router<S> {
    // In one layer: each one by itself would copy all that is below it for every request.
    router.layer((
        RequestLayer::new(gate.clone(), front_end, origins.clone()),
        option_layer(origins.cors(&front_end)),
        Guard::new(served),
    ))
}
