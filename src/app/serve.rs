//! `serve`: from the first line to the last.

use std::{future::pending, process::ExitCode};

use tracing::{error, info, warn};

use crate::{config::Settings, server::Signals};

use super::{Database, Gateway, StartError, capacity, preflight};

/// Serves until a signal, or until the private PostgreSQL ends or a task of the gateway fails.
pub(super) async fn run(settings: &Settings) -> Result<ExitCode, StartError> {
    let settings = &capacity::fit(settings)?;
    let mut signals = Signals::new()?;
    preflight::before_the_database(settings).await?;
    let mut database = tokio::select! {
        opened = Database::open(settings) => opened?,
        signal = signals.next() => return Ok(interrupted(signal)),
    };
    let gateway = tokio::select! {
        started = Gateway::start(settings, &database) => started,
        signal = signals.next() => {
            database.stop().await;
            return Ok(interrupted(signal));
        }
    };
    let mut gateway = match gateway {
        Ok(gateway) => gateway,
        Err(error) => {
            database.stop().await;
            return Err(error);
        }
    };
    let (url, operations) = (gateway.url(), gateway.operations_url());
    let docs = gateway.address().map(|_| format!("{url}/docs"));
    info!(docs, operations, "listening on {url}");

    let code = tokio::select! {
        signal = signals.next() => {
            info!(signal, "shutting down");
            ExitCode::SUCCESS
        }
        () = database_ends(&mut database) => ExitCode::FAILURE,
        () = gateway.first_failure() => ExitCode::FAILURE,
    };
    let rest = async {
        gateway.drain().await;
        gateway.shut_down().await;
        database.stop().await;
    };
    tokio::select! {
        () = rest => info!("stopped"),
        // A private PostgreSQL is stopped by the system when we are gone.
        signal = signals.next() => {
            warn!(signal, "stopping without waiting any longer");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(code)
}

fn interrupted(signal: &'static str) -> ExitCode {
    info!(signal, "stopped before the start was complete");
    ExitCode::FAILURE
}

async fn database_ends(database: &mut Database) {
    let Some(server) = database.server() else {
        return pending().await;
    };
    let status = server.ended().await;
    let log = server.dir().join("log");
    let status = status.map_or_else(|e| e.to_string(), |status| status.to_string());
    error!(status, log = %log.display(), "the private PostgreSQL ended by itself");
}
