//! `healthcheck`: for containers that have no curl.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
    time::Duration,
};

use axum::http::{Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{config::Settings, server::connect_unverified};

/// Time for the whole question.
const LIMIT: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Asks, and says what it heard.
pub(super) async fn run(settings: &Settings, live: bool) -> ExitCode {
    let path = if live { "/livez" } else { "/readyz" };
    let (said, code) = match timeout(LIMIT, ask(settings, path)).await {
        Ok(Ok((true, said))) => (said, ExitCode::SUCCESS),
        Ok(Ok((false, said))) => (said, ExitCode::FAILURE),
        Ok(Err(error)) => (error.to_string(), ExitCode::FAILURE),
        Err(_) => ("no answer".to_owned(), ExitCode::FAILURE),
    };
    let _ = writeln!(io::stdout(), "{}", said.trim_end());
    code
}

/// Asks the operations listener where there is one, as it asks for nothing in return.
async fn ask(settings: &Settings, path: &str) -> Result<(bool, String), Failure> {
    let server = &settings.server;
    if let Some(port) = server.operations_port {
        return ask_over(dial(server.operations_host, port).await?, path).await;
    }
    if let Some(socket) = &server.unix_socket {
        return ask_over(UnixStream::connect(socket).await?, path).await;
    }
    if settings.tls.client_ca_file.is_some() {
        return Err(
            "clients need a certificate here (tls.client_ca_file), and healthcheck has none: \
                    set server.operations_port, and it asks there"
                .into(),
        );
    }
    let stream = dial(server.host, server.port).await?;
    if settings.tls.files().is_some() {
        return ask_over(connect_unverified(stream).await?, path).await;
    }
    ask_over(stream, path).await
}

async fn dial(host: IpAddr, port: u16) -> Result<TcpStream, Failure> {
    // What listens on every address listens on this one.
    let host = match host.to_canonical() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    if port == 0 {
        return Err("the system chose the port (0 in the settings), and healthcheck cannot know \
                    which: set one"
            .into());
    }
    Ok(TcpStream::connect((host, port)).await?)
}

async fn ask_over<S>(stream: S, path: &str) -> Result<(bool, String), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "localhost");
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let ready = response.status().is_success();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((ready, String::from_utf8_lossy(&body).into_owned()))
}
