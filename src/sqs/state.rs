//! What the handlers share, and where the gateway is to its clients.

use std::{ops::Deref, sync::Arc};

use axum::http::{header, request::Parts, uri::Authority};

use crate::http::GatedBroker;

use super::names::Place;

/// What stands in URLs and ARNs of queues.
#[derive(Clone, Debug)]
pub struct SqsPlace {
    /// What URLs begin with, where that is not what the client called the gateway.
    pub base_url: Option<String>,
    /// The scheme of the listener.
    pub scheme: &'static str,
    /// Twelve digits.
    pub account_id: String,
    /// A region.
    pub region: String,
    /// Whether the groups of a standard queue come to take turns.
    pub fair_queues: bool,
}

/// What the handlers share.
#[derive(Clone, Debug)]
pub(super) struct Sqs {
    pub(super) gated: GatedBroker,
    place: Arc<SqsPlace>,
}

impl Deref for Sqs {
    type Target = GatedBroker;

    fn deref(&self) -> &GatedBroker {
        &self.gated
    }
}

impl Sqs {
    pub(super) fn new(gated: GatedBroker, place: SqsPlace) -> Self {
        Self { gated, place: Arc::new(place) }
    }

    /// Whether the groups of a standard queue come to take turns.
    pub(super) fn fair_queues(&self) -> bool {
        self.place.fair_queues
    }

    /// Where queues seem to be to whoever makes a request.
    pub(super) fn place(&self, parts: &Parts, base_path: &str) -> Place {
        let base = self.place.base_url.clone().unwrap_or_else(|| {
            let said = |name: &str| {
                let said = parts.headers.get(name)?.to_str().ok()?.split(',').next()?.trim();
                (!said.is_empty()).then_some(said)
            };
            let is_scheme = |scheme: &&str| matches!(*scheme, "http" | "https");
            let scheme = said("x-forwarded-proto").filter(is_scheme).unwrap_or(self.place.scheme);
            let is_host = |host: &&str| {
                host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
            };
            let host = said("x-forwarded-host").filter(is_host).unwrap_or(host(parts));
            format!("{scheme}://{host}{base_path}")
        });
        let SqsPlace { account_id, region, .. } = &*self.place;
        Place { base, account: account_id.clone(), region: region.clone() }
    }
}

/// The host's name as the client wrote it.
pub(super) fn host(parts: &Parts) -> &str {
    let header = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| parts.uri.authority().map(Authority::as_str)).unwrap_or("localhost")
}
