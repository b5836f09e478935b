//! The listeners: accepting connections, and letting go of them.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tower::{Service, service_fn};
use tracing::{debug, warn};

use crate::config::Settings;

mod answers;
mod files;
mod patience;
mod places;
mod refusal;
mod rules;
mod signals;
mod socket;
mod stream;
mod tls;
mod unix;
mod unverified;

use answers::Answers;
use patience::Patient;
use places::Places;
use refusal::Refusals;
use socket::Socket;
use stream::Stream;
use tls::Tls;

pub use files::raise_file_limit;
pub use rules::Rules;
pub use signals::Signals;
pub use socket::Endpoint;
pub use tls::TlsError;
pub use unverified::connect_unverified;

/// A pause after the system refused to hand over a connection, for want of files for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
            let socket = socket.map_err(|source| ListenError::Socket {
                place: path.display().to_string(),
                source,
                remedy: "server.unix_socket sets another path",
            })?;
            return Ok(Self { socket, endpoint: Endpoint::Unix(path.clone()), tls: None });
        }
        let tls = files.map(Tls::load).transpose()?;
        let remedy = "server.host and server.port set another address";
        let address = SocketAddr::new(server.host, server.port);
        let (socket, address) = bind(address, remedy).await?;
        let endpoint = match tls {
            Some(_) => Endpoint::Https(address),
            None => Endpoint::Http(address),
        };
        Ok(Self { socket, endpoint, tls })
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
    pub async fn serve(self, router: Router, rules: Rules, stop: CancellationToken) {
        let acceptor = self.tls.as_ref().map(Tls::current);
        let _following = self.tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(tls.follow())));
        let door = Door {
            http: Arc::new(rules.http()),
            router,
            acceptor,
            stop: stop.clone(),
            header_timeout: rules.header_timeout,
            write_timeout: rules.write_timeout,
        };
        let places = Places::new(rules.max_connections, rules.metrics);
        let refusals = Refusals::new();
        let connections = TaskTracker::new();
        loop {
            let stream = tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok(stream) => stream,
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                },
                () = stop.cancelled() => break,
            };
            let Some(place) = places.take() else {
                // Before a handshake there is nothing that a client of TLS would understand.
                if door.acceptor.is_none() {
                    refusals.refuse(stream);
                }
                continue;
            };
            let door = door.clone();
            connections.spawn(async move {
                door.serve(stream).await;
                drop(place);
            });
        }
        drop(self.socket);
        connections.close();
        let open = connections.len();
        if timeout(rules.shutdown_timeout, connections.wait()).await.is_err() {
            warn!(open, "requests were still in hand when the time for shutting down was up");
        }
    }
}

async fn bind(
    address: SocketAddr,
    remedy: &'static str,
) -> Result<(Socket, SocketAddr), ListenError> {
    let failed = |source| ListenError::Socket { place: address.to_string(), source, remedy };
    Socket::tcp(address).await.map_err(failed)
}

/// What every connection is served with.
#[derive(Clone)]
struct Door {
    http: Arc<Builder<TokioExecutor>>,
    router: Router,
    acceptor: Option<watch::Receiver<Arc<ServerConfig>>>,
    stop: CancellationToken,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl Door {
    /// Serves one connection to its end.
    async fn serve(self, stream: Stream) {
        let Some(stream) = Box::pin(self.shake_hands(stream)).await else {
            return;
        };
        let answers = Arc::new(Answers::new(self.write_timeout));
        let stream =
            Patient::new(stream, Arc::clone(&answers), self.header_timeout, self.write_timeout);
        let (router, counting) = (self.router, Arc::clone(&answers));
        let service = service_fn(move |request| {
            let (in_hand, answer) = (counting.request(), router.clone().call(request));
            async move { Ok::<_, Infallible>(in_hand.answer(answer.await?)) }
        });
        let service = TowerToHyperService::new(service);
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let (mut stall, mut late) = (pin!(answers.stall(self.write_timeout)), pin!(answers.late()));
        let mut closing = false;
        let why = loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.stop.cancelled(), if !closing => {}
                () = answers.idle(self.header_timeout) => {
                    if closing {
                        break "the client does not take leave";
                    }
                }
                () = &mut stall => break "the client does not take its answers",
                () = &mut late => break "the client takes its answers too slowly",
            }
            closing = true;
            connection.as_mut().graceful_shutdown();
        };
        debug!(why, "connection ended");
    }

    /// The handshake of TLS, where there is one.
    async fn shake_hands(&self, stream: Stream) -> Option<Stream> {
        let Some(config) = &self.acceptor else {
            return Some(stream);
        };
        let Stream::Tcp(tcp) = stream else {
            return Some(stream);
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&config.borrow()));
        let shaken = tokio::select! {
            shaken = timeout(self.header_timeout, acceptor.accept(tcp)) => shaken,
            () = self.stop.cancelled() => return None,
        };
        match shaken {
            Ok(Ok(stream)) => Some(Stream::Tls(Box::new(stream))),
            Ok(Err(error)) => {
                debug!(%error, "no TLS handshake");
                None
            }
            Err(_) => {
                debug!("no TLS handshake in time");
                None
            }
        }
    }
}

/// A connection that broke before it was accepted is its client's affair; anything else will not be
/// better in the next instant.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    warn!(%error, "cannot accept a connection");
    sleep(ACCEPT_PAUSE).await;
}
