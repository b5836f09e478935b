//! What the handlers share, and the only way from a request to the broker: leave for what it wants to
//! do.
//!
//! The broker is private to this module. A handler gets at it with [`On`], [`Over`] or [`Across`] in
//! its signature, each of which says for what; one without does not compile.

mod caller;
mod permit;

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    auth::Access,
    broker::{Apart, Broker, HealthState},
    domain::{CallStats, Share},
    telemetry::{FloodGate, Metrics},
};

use super::{
    caller_usage::Usage,
    foreign::EdgeRules,
    hold::{Budget, InHand, RequestLimits},
};

pub(super) use caller::{Caller, must_still_be_let_in};
pub(super) use permit::{Across, On, Operator, Over, ToManage, ToReceive, ToSee, ToSend};

/// What the handlers share. A clone is the same, and costs next to nothing: every request makes some.
#[derive(Clone, Debug)]
pub struct Api(Arc<Shared>);

/// What the handlers need.
#[derive(Debug)]
pub struct ApiParts {
    /// The operations.
    pub broker: Broker,
    /// Who is let in.
    pub access: Arc<Access>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Bytes in the body of a request.
    pub max_body_bytes: u64,
    /// Bytes in an answer that carries messages.
    pub max_answer_bytes: u64,
    /// Bytes of bodies and answers at the same time.
    pub max_bytes_in_hand: u64,
    /// Requests at the same time, those that wait not counted.
    pub max_requests: usize,
    /// Requests whose body has not come yet.
    pub max_arriving_requests: usize,
    /// What one key may have of these.
    pub share_per_key: Share,
    /// Requests in a second, if they are bounded.
    pub requests_per_second: Option<u32>,
    /// Time for a client to send the body of a request.
    pub body_timeout: Duration,
    /// Which names and pages are answered to.
    pub rules: EdgeRules,
    /// The path under which a proxy serves it; empty at the root.
    pub path_prefix: String,
    /// Cancelled when a shutdown begins.
    pub draining: CancellationToken,
    /// Whether what is for operators is served by [`operations_router`](super::operations_router)
    /// alone.
    pub operations_apart: bool,
}

/// The parts, of which the broker stays here.
#[derive(Debug)]
pub struct Shared {
    broker: Broker,
    access: Arc<Access>,
    /// Where requests are counted.
    pub(super) metrics: Arc<Metrics>,
    /// Bytes in the body of a request.
    pub(super) max_body_bytes: u64,
    /// Bytes in an answer that carries messages.
    pub(super) max_answer_bytes: u64,
    /// Bytes of bodies and answers at the same time.
    pub(super) bytes_in_hand: Budget,
    /// Requests at the same time.
    pub(super) in_hand: InHand,
    /// Time for a client to send the body of a request.
    pub(super) body_timeout: Duration,
    /// Which names and pages are answered to.
    pub(super) rules: EdgeRules,
    /// The path under which a proxy serves it; empty at the root.
    pub(super) path_prefix: String,
    /// Bounds the log lines about the same trouble.
    pub(super) flood_gate: FloodGate,
    /// Cancelled when a shutdown begins.
    pub(super) draining: CancellationToken,
    /// Whether what is for operators has a listener of its own.
    pub(super) operations_apart: bool,
}

impl Api {
    /// Puts the parts together.
    pub fn new(parts: ApiParts) -> Self {
        Self(Arc::new(Shared {
            broker: parts.broker,
            access: parts.access,
            metrics: parts.metrics,
            max_body_bytes: parts.max_body_bytes,
            max_answer_bytes: parts.max_answer_bytes,
            bytes_in_hand: Budget::new(
                parts.max_bytes_in_hand,
                parts.share_per_key,
                parts.max_body_bytes.max(parts.max_answer_bytes),
            ),
            in_hand: InHand::new(RequestLimits {
                served: parts.max_requests,
                arriving: parts.max_arriving_requests,
                share: parts.share_per_key,
                per_second: parts.requests_per_second,
            }),
            body_timeout: parts.body_timeout,
            rules: parts.rules,
            path_prefix: parts.path_prefix,
            flood_gate: FloodGate::default(),
            draining: parts.draining,
            operations_apart: parts.operations_apart,
        }))
    }

    /// What the caller of a request has in hand, where callers are told apart.
    pub(super) fn usage(&self, stats: &CallStats) -> Option<Arc<Usage>> {
        stats.caller().map(|caller| self.in_hand.usage(caller))
    }

    /// Where much text is worked on.
    pub(super) fn text(&self) -> &Apart {
        self.broker.text()
    }

    /// Asks the database whether it can serve: nothing that anybody needs leave for.
    pub(super) async fn check_health(&self) -> HealthState {
        self.broker.check_health().await
    }
}

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
