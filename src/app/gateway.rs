//! The gateway put together: pools, broker, routes, listener.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::{self, Operations},
    broker::{Broker, BrokerParts, Collector, Janitor, Mover},
    config::{Http, Settings},
    dashboard::{self, DashboardParts, History},
    domain::ReceiptKey,
    http::{GateParts, GatedBroker, Hosts, OriginPolicy},
    server::{ConnectionOptions, Endpoint, Listener},
    sqs::{self, SqsPlace},
    store::{self, Db, Health, Pool},
    supabase,
    telemetry::Metrics,
};

use super::{
    Database, StartError, background_tasks::Parts, key_sync::KeySync, keys::master_key, pages,
    preflight,
};

/// The part that serves clients.
const LISTENER: &str = "listener";

/// A gateway that serves.
#[derive(Debug)]
pub struct Gateway {
    endpoint: Endpoint,
    operations: Option<Endpoint>,
    broker: Broker,
    draining: CancellationToken,
    stop: CancellationToken,
    parts: Parts,
    shutdown_delay: Duration,
    shutdown_timeout: Duration,
}

impl Gateway {
    /// Prepares the database and begins to serve.
    pub async fn start(settings: &Settings, database: &Database) -> Result<Self, StartError> {
        let limits = &settings.database;
        let options = database.options(settings)?;
        let direct = database.direct_options(settings)?;
        preflight::before_the_database(settings).await?;
        let access = preflight::access(settings).await?;
        database.reach_all(settings).await?;
        preflight::before_the_schema(settings, &access, &direct).await?;
        let patience = limits.connect_timeout();
        let prepared = store::prepare(&direct, limits.install_pgmq, patience).await?;
        let connections = database.connections(settings)?;
        info!(pgmq = %prepared.pgmq, connections, "database is ready");
        let master_key = master_key(&settings.sqs, prepared.master_key)?;
        if settings.sqs.enabled && master_key.is_none() {
            warn!(
                "this role may not read pgmq_gateway.master_key, and sqs.master_key_file names no other: \
                 signatures of SQS clients cannot be checked, and are refused where keys are needed"
            );
        }
        let key = &settings.receipts.signing_key;
        let receipt_key = key
            .as_ref()
            .map_or(prepared.receipt_key, |key| ReceiptKey::new(key.expose().as_bytes()));
        let session_key = settings.dashboard.enabled.then(|| receipt_key.session_key());
        let access = access.with_master_key(master_key).with_session_key(session_key);
        let access = Arc::new(access);
        let pool = Pool::new(&options, limits.max_connections, limits.acquire_timeout());
        let waiting = pool.another(settings.long_poll.max_connections);
        let health = Arc::new(Health::new(pool.clone()));
        let metrics = Arc::new(Metrics::new());
        let (timeout, features) = (limits.statement_timeout(), prepared.features);
        let db = |pool| Db::new(pool, Arc::clone(&health), timeout, features);
        let (db, waiting) = (db(pool), db(waiting));
        let key_sync = KeySync::new(&access, db.clone(), settings);
        key_sync.load().await?;
        let server = &settings.server;
        let address = preflight::address(settings);
        access.check(address)?;
        let listener = Listener::for_clients(settings).await?;
        let operations = Listener::for_operations(settings).await?;
        let parts = BrokerParts { db, waiting, health, metrics: Arc::clone(&metrics), receipt_key };
        let broker = Broker::new(parts, settings);
        let collector = Collector::new(broker.clone(), settings.metrics.clone());
        let janitor = Janitor::new(broker.clone(), settings.maintenance.clone());
        let listen = database.listen_options(settings)?;
        let listen = listen.map(|options| (options, prepared.peer_key));
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let rules = ConnectionOptions::new(settings, Arc::clone(&metrics));
        let gate = GateParts {
            access,
            metrics,
            max_body_bytes: settings.limits.max_body_bytes,
            max_answer_bytes: settings.limits.max_answer_bytes,
            max_in_flight_bytes: settings.limits.max_in_flight_bytes,
            max_requests: settings.limits.max_requests,
            max_arriving_requests: settings.limits.max_arriving_requests,
            share_per_key: settings.limits.max_share_per_key_percent,
            requests_per_second: settings.limits.requests_per_second,
            body_timeout: settings.server.request_timeout(),
            origins: origin_policy(
                &settings.http,
                address.filter(|_| settings.tls.files().is_none()),
            ),
            path_prefix: settings.http.path_prefix.clone(),
            draining: draining.clone(),
        };
        let gated = GatedBroker::new(gate, broker.clone());
        let endpoint = listener.endpoint().clone();
        let operations_endpoint = operations.as_ref().map(|listener| listener.endpoint().clone());
        let names = origin_policy(&settings.http, Some((server.operations_host, 0).into()));
        let operations = operations.map(|listener| (listener, names));
        let mut parts = Parts::default();
        let history = History::new(Arc::clone(broker.metrics()));
        let doors = Doors {
            supabase: settings.supabase.enabled,
            sqs: sqs_place(settings),
            dashboard: pages::dashboard_parts(settings, &gated, &history),
        };
        if settings.dashboard.enabled {
            parts.spawn("history of figures", history.run());
        }
        parts.spawn(LISTENER, serve(listener, operations, gated, doors, rules, stop.clone()));
        parts.spawn("mover of dead letters", Mover::new(broker.clone()).run());
        parts.spawn("collector of figures", collector.run());
        parts.spawn("janitor", janitor.run());
        parts.spawn("doorkeeper", key_sync.run());
        let waking = broker.clone();
        parts.spawn("waker", async move { waking.wake_waiters(listen).await });
        Ok(Self {
            endpoint,
            operations: operations_endpoint,
            broker,
            draining,
            stop,
            parts,
            shutdown_delay: settings.server.shutdown_delay(),
            shutdown_timeout: settings.server.shutdown_timeout(),
        })
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The address it listens on, unless that is a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.endpoint.address()
    }

    /// An address a client on this machine can use.
    pub fn url(&self) -> String {
        self.endpoint.url()
    }

    /// The same for operations, where they have a listener of their own.
    pub fn operations_url(&self) -> Option<String> {
        self.operations.as_ref().map(Endpoint::url)
    }

    /// Says that it is not ready any more, serves for the shutdown delay, and then answers those who wait.
    ///
    /// Clients wait on until then, and are given what comes: one that was answered at once would ask again at
    /// once, as often as it can, until the delay is over.
    pub async fn drain(&self) {
        self.draining.cancel();
        sleep(self.shutdown_delay).await;
        self.broker.stop_waiting();
    }

    /// Waits until a part of it comes to grief. Nobody is better off with the rest: without the
    /// doorkeeper, say, a key that is revoked would stay in force.
    pub async fn breaks(&mut self) {
        while let Some((part, outcome)) = self.parts.next_end().await {
            // One that has nothing to do is done.
            if let Some(panic) = outcome {
                error!(part, %panic, "a part of the gateway has failed");
                return;
            }
        }
        pending::<()>().await;
    }

    /// Lets requests in hand finish, then closes every connection; gives up when the time is up.
    pub async fn shut_down(mut self) {
        self.draining.cancel();
        self.broker.stop_waiting();
        self.stop.cancel();
        if let Some(error) = self.parts.join(LISTENER).await {
            warn!(%error, "the listener failed");
        }
        drop(self.parts);
        if timeout(self.shutdown_timeout, self.broker.close()).await.is_err() {
            warn!("the database's connections could not be closed in time");
        }
    }
}

/// Which names and pages are answered to, at an address or, without one, where no page can have a name
/// of its own lead: at a Unix socket, and by TLS, as the certificate has none for it.
fn origin_policy(settings: &Http, address: Option<SocketAddr>) -> OriginPolicy {
    let given = || settings.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
    // As it is decided whether a key is needed.
    let is_loopback = address.is_some_and(|address| address.ip().to_canonical().is_loopback());
    let hosts = match (settings.allowed_hosts.is_empty(), is_loopback) {
        (true, true) => Hosts::Loopback,
        (true, false) => Hosts::Any,
        (false, _) => Hosts::Named(given()),
    };
    OriginPolicy { hosts, origins: settings.cors_origins.clone() }
}

/// Where the queues of SQS seem to be, if it is served.
fn sqs_place(settings: &Settings) -> Option<SqsPlace> {
    let sqs = &settings.sqs;
    sqs.enabled.then(|| SqsPlace {
        base_url: sqs.base_url.clone(),
        scheme: if settings.tls.files().is_some() { "https" } else { "http" },
        account_id: sqs.account_id.clone(),
        region: sqs.region.clone(),
        fair_queues: sqs.fair_queues,
    })
}

/// The front ends beside REST.
struct Doors {
    supabase: bool,
    sqs: Option<SqsPlace>,
    dashboard: Option<DashboardParts>,
}

/// Serves clients, and operations where they have a listener of their own, which goes last: it tells
/// how the shutdown goes.
async fn serve(
    clients: Listener,
    operations: Option<(Listener, OriginPolicy)>,
    gated: GatedBroker,
    doors: Doors,
    rules: ConnectionOptions,
    stop: CancellationToken,
) {
    let stop_operations = CancellationToken::new();
    let place = if operations.is_some() { Operations::Elsewhere } else { Operations::Here };
    let operations = operations.map(|listener| {
        let (listener, names) = listener;
        let router = api::operations_router(gated.clone(), &names);
        let serve = listener.serve(router, rules.for_operations(), stop_operations.clone());
        tokio::spawn(serve)
    });
    let mut router = api::router(gated.clone(), place, doors.dashboard.is_some());
    if doors.supabase {
        router = router.merge(supabase::router(gated.clone()));
    }
    if let Some(parts) = doors.dashboard {
        router = router.merge(dashboard::router(parts));
    }
    if let Some(place) = doors.sqs {
        router = sqs::router(&gated, place, router);
    }
    clients.serve(router, rules, stop).await;
    stop_operations.cancel();
    if let Some(operations) = operations
        && let Err(error) = operations.await
    {
        warn!(%error, "the operations listener failed");
    }
}
