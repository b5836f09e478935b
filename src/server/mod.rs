//! The listeners: accepting connections, and letting go of them.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::warn;

use crate::{
    config::Settings,
    telemetry::{FloodGate, Line},
};

mod app;
mod connection;
mod connection_limit;
mod connection_options;
mod deadline;
mod exchange;
mod insecure_tls;
mod last_part;
mod linger;
mod overload_responder;
mod preface;
mod problem;
mod read_ahead;
mod request_wait;
mod response_tracker;
mod rlimit;
mod signals;
mod socket;
mod stream;
mod tls;
mod unix;
mod unserved;
mod write_timeout;

use connection::Connections;
use connection_limit::ConnectionLimit;
use overload_responder::OverloadResponder;
use socket::Socket;
use tls::Tls;

pub use app::{App, app};
pub use connection_options::{ConnectionOptions, most_descriptors};
pub use insecure_tls::connect_unverified;
pub use rlimit::raise_file_limit;
pub use signals::Signals;
pub use socket::Endpoint;
pub use tls::TlsError;

/// A pause after the system refused to hand over a connection, for want of files for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The most connections that are still accepted when the server stops.
const BACKLOG: usize = 1024;

/// A socket that is listened on, with TLS or without.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
    tls: Option<Tls>,
}

/// Why nothing can be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system says no.
    #[error("cannot listen on {place}: {source}; {remedy}")]
    Socket {
        /// The address or the path.
        place: String,
        /// What it says.
        source: io::Error,
        /// The settings to change.
        remedy: &'static str,
    },
    /// Two settings that exclude each other.
    #[error(
        "server.unix_socket and tls.cert_file are both set, and a Unix socket has no TLS, as nothing \
         leaves the machine: unset one of them"
    )]
    TlsOnUnixSocket,
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Listener {
    /// The listener for clients.
    pub async fn for_clients(settings: &Settings) -> Result<Self, ListenError> {
        let (server, files) = (&settings.server, settings.tls.files());
        if let Some(path) = &server.unix_socket {
            if files.is_some() {
                return Err(ListenError::TlsOnUnixSocket);
            }
            let socket = Socket::unix(path, server.unix_socket_permissions()).await;
            let socket = socket.map_err(|source| not_at(path, source))?;
            return Ok(Self { socket, endpoint: Endpoint::Unix(path.clone()), tls: None });
        }
        let tls = files.map(Tls::load).transpose()?;
        let remedy = "--port and --host, or server.port and server.host, set another address";
        let address = SocketAddr::new(server.host, server.port);
        let (socket, address) = bind(address, remedy).await?;
        let endpoint = match tls {
            Some(_) => Endpoint::Https(address),
            None => Endpoint::Http(address),
        };
        Ok(Self { socket, endpoint, tls })
    }

    /// Whether a start would remove a Unix socket that is left there, where clients can be listened to. Changes
    /// nothing.
    pub async fn inspect_unix(path: &Path, settings: &Settings) -> Result<bool, ListenError> {
        if settings.tls.files().is_some() {
            return Err(ListenError::TlsOnUnixSocket);
        }
        unix::inspect(path).await.map_err(|source| not_at(path, source))
    }

    /// The listener for operations, where one is wished.
    pub async fn for_operations(settings: &Settings) -> Result<Option<Self>, ListenError> {
        let Some(port) = settings.server.operations_port else {
            return Ok(None);
        };
        let address = SocketAddr::new(settings.server.operations_host, port);
        let remedy = "server.operations_host and server.operations_port set another address";
        let (socket, address) = bind(address, remedy).await?;
        Ok(Some(Self { socket, endpoint: Endpoint::Http(address), tls: None }))
    }

    /// Where it is, with the port that the system chose.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves until `stop`, then lets requests in hand finish for as long as the rules say.
    pub async fn serve(self, app: App, rules: ConnectionOptions, stop: CancellationToken) {
        let acceptor = self.tls.as_ref().map(Tls::current);
        let _following = self.tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(tls.follow())));
        let door = Arc::new(Connections::new(&rules, app, acceptor, stop.clone()));
        let refusals = OverloadResponder::new(rules.max_lingering());
        let places = ConnectionLimit::new(rules.max_connections, rules.metrics);
        let (connections, flood_gate) = (TaskTracker::new(), FloodGate::default());
        let welcome = |stream| {
            let Some(place) = places.take() else {
                // Before a handshake there is nothing that a client of TLS would understand.
                if !door.has_tls() {
                    refusals.refuse(stream);
                }
                return;
            };
            let door = Arc::clone(&door);
            connections.spawn(async move {
                door.serve(stream).await;
                drop(place);
            });
        };
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok(stream) => welcome(stream),
                    Err(error) => pause_after(&error, &flood_gate).await,
                },
                () = stop.cancelled() => break,
            }
        }
        // Those that had connected by then may have asked for something. The system says who they are
        // before this goes on.
        yield_now().await;
        for _ in 0..BACKLOG {
            let Some(Ok(stream)) = self.socket.accept().now_or_never() else { break };
            welcome(stream);
        }
        drop(self.socket);
        connections.close();
        let open = connections.len();
        if timeout(rules.shutdown_timeout, connections.wait()).await.is_err() {
            warn!(open, "requests were still in hand when the time for shutting down was up");
        }
    }
}

fn not_at(path: &Path, source: io::Error) -> ListenError {
    let remedy = "server.unix_socket sets another path";
    ListenError::Socket { place: path.display().to_string(), source, remedy }
}

async fn bind(
    address: SocketAddr,
    remedy: &'static str,
) -> Result<(Socket, SocketAddr), ListenError> {
    let failed = |source| ListenError::Socket { place: address.to_string(), source, remedy };
    Socket::tcp(address).await.map_err(failed)
}

/// A connection that broke before it was accepted is its client's affair; anything else will not be
/// better in the next instant.
async fn pause_after(error: &io::Error, flood_gate: &FloodGate) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    if let Line::Write { left_out } = flood_gate.check("accept") {
        warn!(%error, left_out, "cannot accept a connection");
    }
    sleep(ACCEPT_PAUSE).await;
}
