//! What the handlers share.

use std::ops::Deref;

use crate::http::GatedBroker;

/// The broker behind its gate, for handlers that answer as REST does.
#[derive(Clone, Debug)]
pub(super) struct Api(pub(super) GatedBroker);

impl Deref for Api {
    type Target = GatedBroker;

    fn deref(&self) -> &GatedBroker {
        &self.0
    }
}
