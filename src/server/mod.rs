//! The listener: accepting connections, and letting go of them.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

mod files;
mod signals;

pub use files::raise_file_limit;
pub use signals::Signals;

/// A pause after the system refused to hand over a connection, for want of files for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// Why nothing can be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; server.host and server.port set another address")]
pub struct ListenError {
    address: SocketAddr,
    source: io::Error,
}

impl Listener {
    /// Binds an address; port 0 lets the system choose.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let failed = |source| ListenError { address, source };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    /// The address, with the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets requests in hand finish for at most `patience`.
    pub async fn serve(
        self,
        router: Router,
        header_timeout: Duration,
        stop: CancellationToken,
        patience: Duration,
    ) {
        let mut http = Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
        http.http2().timer(TokioTimer::new());
        let service = TowerToHyperService::new(router);
        let connections = GracefulShutdown::new();
        loop {
            let stream = tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                },
                () = stop.cancelled() => break,
            };
            set_nodelay(&stream);
            let connection = http.serve_connection(TokioIo::new(stream), service.clone());
            let connection = connections.watch(connection.into_owned());
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    debug!(%error, "connection ended");
                }
            });
        }
        drop(self.socket);
        let open = connections.count();
        if timeout(patience, connections.shutdown()).await.is_err() {
            warn!(open, "requests were still in hand when the time for shutting down was up");
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

/// An answer is one write: waiting for more to send would only delay it.
fn set_nodelay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
}
