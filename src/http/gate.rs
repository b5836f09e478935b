//! What every request passes before anybody works for it: who may come in, how many, and from where.

use std::{ops::Deref, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    auth::Access,
    broker::CpuPool,
    domain::{Call, Share},
    telemetry::{FloodGate, Metrics, RecentErrors},
};

use super::{
    admission::{CallerUsage, ConcurrencyLimit, MemoryBudget, Refusals, RequestLimits},
    origin::OriginPolicy,
};

/// What all front ends share but the broker. A clone is the same, and costs next to nothing: every request
/// makes some.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

/// What the gate needs.
#[derive(Debug)]
pub struct GateParts {
    /// Who is let in.
    pub access: Arc<Access>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Bytes in the body of a request.
    pub max_body_bytes: u64,
    /// Bytes in an answer that carries messages.
    pub max_answer_bytes: u64,
    /// Bytes of bodies and answers at the same time.
    pub max_in_flight_bytes: u64,
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
    pub origins: OriginPolicy,
    /// The path under which a proxy serves it; empty at the root.
    pub path_prefix: String,
    /// Cancelled when a shutdown begins.
    pub draining: CancellationToken,
}

/// The parts.
#[derive(Debug)]
pub struct Shared {
    pub(super) access: Arc<Access>,
    /// Where requests are counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Bytes in the body of a request.
    pub(crate) max_body_bytes: u64,
    /// Bytes in an answer that carries messages.
    pub(crate) max_answer_bytes: u64,
    /// Bytes of bodies and answers at the same time.
    pub(crate) memory: MemoryBudget,
    /// Requests at the same time.
    pub(crate) concurrency: ConcurrencyLimit,
    /// Who is refused again and again.
    pub(super) refusals: Refusals,
    /// Time for a client to send the body of a request.
    pub(super) body_timeout: Duration,
    /// Which names and pages are answered to.
    pub(crate) origins: OriginPolicy,
    /// The path under which a proxy serves it; empty at the root.
    pub(super) path_prefix: String,
    /// Where much text is worked on.
    pub(crate) cpu_pool: CpuPool,
    /// Bounds the log lines about the same trouble.
    pub(super) flood_gate: FloodGate,
    /// The last requests that went wrong on this side.
    pub(crate) recent_errors: RecentErrors,
    /// Cancelled when a shutdown begins.
    pub(crate) draining: CancellationToken,
}

impl Gate {
    /// Puts the parts together.
    pub(super) fn new(parts: GateParts, cpu_pool: CpuPool) -> Self {
        Self(Arc::new(Shared {
            access: parts.access,
            metrics: parts.metrics,
            max_body_bytes: parts.max_body_bytes,
            max_answer_bytes: parts.max_answer_bytes,
            memory: MemoryBudget::new(
                parts.max_in_flight_bytes,
                parts.share_per_key,
                parts.max_body_bytes.max(parts.max_answer_bytes),
            ),
            concurrency: ConcurrencyLimit::new(RequestLimits {
                served: parts.max_requests,
                arriving: parts.max_arriving_requests,
                share: parts.share_per_key,
                per_second: parts.requests_per_second,
            }),
            refusals: Refusals::default(),
            body_timeout: parts.body_timeout,
            origins: parts.origins,
            path_prefix: parts.path_prefix,
            cpu_pool,
            flood_gate: FloodGate::default(),
            recent_errors: RecentErrors::default(),
            draining: parts.draining,
        }))
    }

    /// Who is let in, for front ends whose credentials are not those of `Authorization: Bearer`.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// What the caller of a request has in flight, where callers are told apart.
    pub(crate) fn usage(&self, call: &Call) -> Option<Arc<CallerUsage>> {
        call.caller().map(|caller| self.concurrency.usage(caller))
    }
}

impl Deref for Gate {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
