//! The gateway put together: pools, broker, routes, listener.

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::{self, Operations},
    auth::Access,
    broker::{Broker, BrokerParts, Collector, Janitor, Mover},
    config::{Http, Settings},
    dashboard::{self, DashboardParts, History},
    domain::ReceiptKey,
    http::{GateParts, GatedBroker, Hosts, OriginPolicy},
    server::{ConnectionOptions, Endpoint, Listener, app},
    sqs::{self, SqsPlace},
    store::{self, ConnectOptions, Db, Features, Health, Pool, Prepared},
    supabase,
    telemetry::Metrics,
};

use super::{
    Database, StartError, background_tasks::BackgroundTasks, key_sync::KeySync, keys::master_key,
    pages, preflight,
};

/// The task that serves clients.
const LISTENER: &str = "listener";

/// A gateway that serves.
#[derive(Debug)]
pub struct Gateway {
    endpoint: Endpoint,
    operations: Option<Endpoint>,
    broker: Broker,
    draining: CancellationToken,
    stop: CancellationToken,
    tasks: BackgroundTasks,
    shutdown_delay: Duration,
    shutdown_timeout: Duration,
}

impl Gateway {
    /// Prepares the database and begins to serve.
    pub async fn start(settings: &Settings, database: &Database) -> Result<Self, StartError> {
        let Ready { access, prepared, receipt_key } = make_ready(settings, database).await?;
        let pools = Pools::new(settings, &database.options(settings)?, prepared.features);
        let key_sync = KeySync::new(&access, pools.db.clone(), settings);
        key_sync.load().await?;
        let address = preflight::address(settings);
        access.check(address)?;
        let listener = Listener::for_clients(settings).await?;
        let operations = Listener::for_operations(settings).await?;
        let metrics = Arc::new(Metrics::new());
        let broker = Broker::new(pools.into_parts(&metrics, receipt_key), settings);
        let listen = database.listen_options(settings)?;
        let listen = listen.map(|options| (options, prepared.peer_key));
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let rules = ConnectionOptions::new(settings, Arc::clone(&metrics));
        let gate = gate_parts(settings, access, metrics, draining.clone());
        let gated = GatedBroker::new(gate, broker.clone());
        let history = History::new(Arc::clone(broker.metrics()));
        let doors = Doors::new(settings, &gated, &history);
        let endpoint = listener.endpoint().clone();
        let operations_endpoint = operations.as_ref().map(|listener| listener.endpoint().clone());
        let names =
            origin_policy(&settings.http, Some((settings.server.operations_host, 0).into()));
        let operations = operations.map(|listener| (listener, names));

        let mut tasks = BackgroundTasks::default();
        if settings.dashboard.enabled {
            tasks.spawn("history of figures", history.run());
        }
        tasks.spawn(LISTENER, serve(listener, operations, gated, doors, rules, stop.clone()));
        tasks.spawn("mover of dead letters", Mover::new(broker.clone()).run());
        let collector = Collector::new(broker.clone(), settings.metrics.clone());
        tasks.spawn("collector of figures", collector.run());
        tasks.spawn("janitor", Janitor::new(broker.clone(), settings.maintenance.clone()).run());
        tasks.spawn("key sync", key_sync.run());
        let waking = broker.clone();
        tasks.spawn("waker", async move { waking.wake_waiters(listen).await });
        Ok(Self {
            endpoint,
            operations: operations_endpoint,
            broker,
            draining,
            stop,
            tasks,
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

    /// Waits until one of its tasks fails. The rest alone does more harm than good: without the look at the
    /// keys, say, one that is revoked would stay in force.
    pub async fn first_failure(&mut self) {
        while let Some((task, outcome)) = self.tasks.next_end().await {
            // One that has nothing to do is done.
            if let Some(panic) = outcome {
                error!(task, %panic, "a task of the gateway has failed");
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
        if let Some(error) = self.tasks.join(LISTENER).await {
            warn!(%error, "the listener failed");
        }
        drop(self.tasks);
        if timeout(self.shutdown_timeout, self.broker.close()).await.is_err() {
            warn!("the database's connections could not be closed in time");
        }
    }
}

/// What a database that is ready gives.
struct Ready {
    access: Arc<Access>,
    prepared: Prepared,
    receipt_key: ReceiptKey,
}

/// Looks at all that a start needs, prepares the database, and learns the keys that are kept there.
async fn make_ready(settings: &Settings, database: &Database) -> Result<Ready, StartError> {
    let direct = database.direct_options(settings)?;
    preflight::before_the_database(settings).await?;
    let access = preflight::access(settings).await?;
    database.reach_all(settings).await?;
    preflight::before_the_schema(settings, &access, &direct).await?;
    let limits = &settings.database;
    let prepared = store::prepare(&direct, limits.install_pgmq, limits.connect_timeout()).await?;
    let connections = database.connections(settings)?;
    info!(pgmq = %prepared.pgmq, connections, "database is ready");
    let master_key = master_key(&settings.sqs, prepared.master_key.clone())?;
    if settings.sqs.enabled && master_key.is_none() {
        warn!(
            "this role may not read pgmq_gateway.master_key, and sqs.master_key_file names no other: \
             signatures of SQS clients cannot be checked, and are refused where keys are needed"
        );
    }
    let signing_key = settings.receipts.signing_key.as_ref();
    let signing_key = signing_key.map(|key| ReceiptKey::new(key.expose().as_bytes()));
    let receipt_key = signing_key.unwrap_or_else(|| prepared.receipt_key.clone());
    let session_key = settings.dashboard.enabled.then(|| receipt_key.session_key());
    let access = access.with_master_key(master_key).with_session_key(session_key);
    Ok(Ready { access: Arc::new(access), prepared, receipt_key })
}

/// The connections to the database.
struct Pools {
    db: Db,
    waiting: Db,
    health: Arc<Health>,
}

impl Pools {
    fn new(settings: &Settings, options: &ConnectOptions, features: Features) -> Self {
        let limits = &settings.database;
        let pool = Pool::new(options, limits.max_connections, limits.acquire_timeout());
        let waiting = pool.another(settings.long_poll.max_connections);
        let health = Arc::new(Health::new(pool.clone()));
        let timeout = limits.statement_timeout();
        let db = |pool| Db::new(pool, Arc::clone(&health), timeout, features);
        Self { db: db(pool), waiting: db(waiting), health }
    }

    fn into_parts(self, metrics: &Arc<Metrics>, receipt_key: ReceiptKey) -> BrokerParts {
        let Self { db, waiting, health } = self;
        BrokerParts { db, waiting, health, metrics: Arc::clone(metrics), receipt_key }
    }
}

fn gate_parts(
    settings: &Settings,
    access: Arc<Access>,
    metrics: Arc<Metrics>,
    draining: CancellationToken,
) -> GateParts {
    let limits = &settings.limits;
    let address = preflight::address(settings).filter(|_| settings.tls.files().is_none());
    GateParts {
        access,
        metrics,
        max_body_bytes: limits.max_body_bytes,
        max_answer_bytes: limits.max_answer_bytes,
        max_in_flight_bytes: limits.max_in_flight_bytes,
        max_requests: limits.max_requests,
        max_arriving_requests: limits.max_arriving_requests,
        share_per_key: limits.max_share_per_key_percent,
        requests_per_second: limits.requests_per_second,
        body_timeout: settings.server.request_timeout(),
        origins: origin_policy(&settings.http, address),
        path_prefix: settings.http.path_prefix.clone(),
        draining,
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
    OriginPolicy { hosts, origins: settings.origins() }
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

impl Doors {
    fn new(settings: &Settings, gated: &GatedBroker, history: &Arc<History>) -> Self {
        Self {
            supabase: settings.supabase.enabled,
            sqs: sqs_place(settings),
            dashboard: pages::dashboard_parts(settings, gated, history),
        }
    }
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
        let serve = listener.serve(app(router), rules.for_operations(), stop_operations.clone());
        tokio::spawn(serve)
    });
    let mut router = api::router(gated.clone(), place, doors.dashboard.is_some());
    if doors.supabase {
        router = router.merge(supabase::router(gated.clone()));
    }
    if let Some(parts) = doors.dashboard {
        router = router.merge(dashboard::router(parts));
    }
    let app = match doors.sqs {
        Some(place) => Arc::new(sqs::app(&gated, place, router)),
        None => app(router),
    };
    clients.serve(app, rules, stop).await;
    stop_operations.cancel();
    if let Some(operations) = operations
        && let Err(error) = operations.await
    {
        warn!(%error, "the operations listener failed");
    }
}
