//! The broker, behind the gate.

use std::ops::Deref;

use crate::broker::{Broker, HealthState};

use super::super::gate::{Gate, GateParts};

/// What the handlers of every front end share. The broker is private to `access`: the way to it is a
/// permit.
///
/// ```compile_fail,E0616
/// fn without_a_permit(gated: &pgmq_gateway::http::GatedBroker) {
///     let broker = &gated.broker;
/// }
/// ```
#[derive(Clone, Debug)]
pub struct GatedBroker {
    gate: Gate,
    pub(super) broker: Broker,
}

impl GatedBroker {
    /// Puts a broker behind a gate.
    pub fn new(parts: GateParts, broker: Broker) -> Self {
        Self { gate: Gate::new(parts, broker.cpu_pool().clone()), broker }
    }

    /// Asks the database whether it can serve: nothing that needs a permit.
    pub(crate) async fn check_health(&self) -> HealthState {
        self.broker.check_health().await
    }
}

impl Deref for GatedBroker {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        &self.gate
    }
}
