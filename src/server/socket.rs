//! What is listened on, and how a client calls it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use tokio::net::{TcpListener, TcpStream, UnixListener};
use tracing::debug;

use super::{
    stream::Stream,
    unix::{self, SocketFile},
};

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// HTTP at an address.
    Http(SocketAddr),
    /// HTTPS at an address.
    Https(SocketAddr),
    /// HTTP on a Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// An address that a client on this machine can use.
    pub fn url(&self) -> String {
        match self {
            Self::Http(address) => format!("http://{}", reachable(*address)),
            Self::Https(address) => format!("https://{}", reachable(*address)),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// The address, of what has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Http(address) | Self::Https(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

/// What listens on every address listens on this one.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().to_canonical().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}

/// A socket that is listened on.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

impl Socket {
    /// Binds an address; port 0 lets the system choose.
    pub(super) async fn tcp(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((Self::Tcp(listener), address))
    }

    /// Binds a path.
    pub(super) async fn unix(path: &std::path::Path, mode: u32) -> io::Result<Self> {
        let (listener, file) = unix::bind(path, mode).await?;
        Ok(Self::Unix { listener, _file: file })
    }

    /// The next client.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                set_nodelay(&stream);
                Ok(Stream::Tcp(stream))
            }
            Self::Unix { listener, .. } => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// An answer is one write: waiting for more to send would only delay it.
fn set_nodelay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "TCP_NODELAY");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_one_that_can_be_used() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (endpoint, url) in [
            (Endpoint::Http(address("0.0.0.0:80")), "http://127.0.0.1:80"),
            (Endpoint::Https(address("[::]:443")), "https://127.0.0.1:443"),
            (Endpoint::Http(address("[::ffff:0.0.0.0]:80")), "http://127.0.0.1:80"),
            (Endpoint::Http(address("[::1]:8080")), "http://[::1]:8080"),
            (Endpoint::Unix("/run/gateway.sock".into()), "unix:/run/gateway.sock"),
        ] {
            assert_eq!(endpoint.url(), url);
        }
    }
}
