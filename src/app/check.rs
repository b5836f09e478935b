//! `healthcheck`: for containers that have no curl.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
    time::Duration,
};

use axum::http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::config::Settings;

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

async fn ask(settings: &Settings, path: &str) -> Result<(bool, String), Failure> {
    // What listens on every address listens on this one.
    let host = match settings.server.host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let stream = TcpStream::connect((host, settings.server.port)).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "localhost");
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?).await?;
    let ready = response.status().is_success();
    let body = response.into_body().collect().await?.to_bytes();
    Ok((ready, String::from_utf8_lossy(&body).into_owned()))
}
