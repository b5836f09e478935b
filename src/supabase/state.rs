//! What the handlers share.

use std::ops::Deref;

use crate::http::GatedBroker;

/// The broker behind its gate, for handlers that answer as PostgREST does.
#[derive(Clone, Debug)]
pub(super) struct Supabase(pub(super) GatedBroker);

impl Deref for Supabase {
    type Target = GatedBroker;

    fn deref(&self) -> &GatedBroker {
        &self.0
    }
}
