//! What the handlers share.

use std::{ops::Deref, sync::Arc};

use crate::{
    domain::Share,
    http::{GatedBroker, Places},
};

use super::history::History;

/// What the dashboard is made of.
#[derive(Debug)]
pub struct DashboardParts {
    /// The broker behind its gate.
    pub gated: GatedBroker,
    /// Whether nothing can be done by it.
    pub read_only: bool,
    /// Whether clients reach the gateway by TLS, as far as it does that itself.
    pub is_tls: bool,
    /// Pages that are kept up to date at the same time.
    pub max_viewers: usize,
    /// What one key may have of these.
    pub share_per_key: Share,
    /// Whether figures of queues are collected.
    pub collects: bool,
    /// Messages of a queue that are counted one by one; figures of longer queues are estimates.
    pub count_limit: i64,
    /// Settings that may be shown, by section and name.
    pub settings: Vec<(String, String)>,
    /// The last hour.
    pub history: Arc<History>,
}

/// The broker behind its gate, for handlers that answer with pages. A clone is the same.
#[derive(Clone, Debug)]
pub struct Dashboard(Arc<Shared>);

/// The parts.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) gated: GatedBroker,
    pub(super) read_only: bool,
    pub(super) is_tls: bool,
    pub(super) collects: bool,
    pub(super) count_limit: i64,
    pub(super) settings: Vec<(String, String)>,
    pub(super) history: Arc<History>,
    /// Places for pages that are kept up to date.
    pub(super) viewers: Places,
}

impl Dashboard {
    /// Puts the parts together.
    pub(super) fn new(parts: DashboardParts) -> Self {
        Self(Arc::new(Shared {
            gated: parts.gated,
            read_only: parts.read_only,
            is_tls: parts.is_tls,
            collects: parts.collects,
            count_limit: parts.count_limit,
            settings: parts.settings,
            history: parts.history,
            viewers: Places::new(parts.max_viewers, parts.share_per_key),
        }))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Dashboard {
    type Target = GatedBroker;

    fn deref(&self) -> &GatedBroker {
        &self.0.gated
    }
}
