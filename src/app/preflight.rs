//! What can be seen to be wrong before anything is changed: a start that is refused leaves the database, and the disk,
//! as they were.

use std::{io::ErrorKind, net::SocketAddr};

use crate::{
    auth::Access,
    config::Settings,
    domain::KeyLimits,
    embedded::EmbeddedServer,
    server::{ListenError, Listener},
    store::{self, ConnectOptions},
};

use super::{Database, StartError, keys};

/// Looks whether the listeners and the files can be had, and, where a private PostgreSQL is yet to be made, whether
/// clients could be let in at all.
pub(super) async fn before_the_database(settings: &Settings) -> Result<(), StartError> {
    master_key(settings)?;
    let clients = for_clients(settings).await?;
    let operations = Listener::for_operations(settings).await?;
    drop((clients, operations));
    before_a_new_one(settings).await
}

/// TLS, as a server and as a client, takes the provider of cryptography that the process has.
fn provide_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The listener for clients.
async fn for_clients(settings: &Settings) -> Result<Listener, ListenError> {
    provide_cryptography();
    Listener::for_clients(settings).await
}

/// Looks whether the file of the master key can be used, where there is one.
pub(super) fn master_key(settings: &Settings) -> Result<(), StartError> {
    keys::master_key(&settings.sqs, None).map(drop)
}

/// Looks at each listener by itself, and returns what there is to say: where one is in use, by the gateway to be
/// replaced perhaps, and what a start would remove.
pub(super) async fn listeners(settings: &Settings) -> Result<Vec<String>, StartError> {
    provide_cryptography();
    if let Some(path) = &settings.server.unix_socket {
        let clients = match Listener::inspect_unix(path, settings).await {
            Ok(true) => Some(format!(
                "{} is left by a process that is gone: a start removes it",
                path.display()
            )),
            Ok(false) => None,
            Err(error) => Some(place_in_use(error)?),
        };
        let operations = Listener::for_operations(settings).await.err().map(place_in_use);
        return Ok(clients.into_iter().chain(operations.transpose()?).collect());
    }
    let clients = for_clients(settings).await;
    let operations = Listener::for_operations(settings).await.map(drop);
    let was_free = clients.is_ok();
    let clients = clients.err().map(place_in_use).transpose()?;
    let operations = match operations {
        // It was the other that was in the way, and nobody is to be replaced.
        Err(error) if was_free && Listener::for_operations(settings).await.is_ok() => {
            return Err(error.into());
        }
        operations => operations.err().map(place_in_use).transpose()?,
    };
    Ok([clients, operations].into_iter().flatten().collect())
}

/// What there is to say of a listener that cannot be had as somebody else has it.
fn place_in_use(error: ListenError) -> Result<String, ListenError> {
    match error {
        ListenError::Socket { place, source, .. } if source.kind() == ErrorKind::AddrInUse => {
            Ok(format!("{place} is in use: fine if it is by the gateway to be replaced"))
        }
        error => Err(error),
    }
}

/// Where a private PostgreSQL is yet to be made, there are no keys in it by which clients could be let in.
pub(super) async fn before_a_new_one(settings: &Settings) -> Result<(), StartError> {
    if settings.database.url.is_none() && EmbeddedServer::is_new(&settings.embedded)? {
        access(settings).await?.check_beforehand(address(settings), false)?;
    }
    Ok(())
}

/// Looks whether clients could be let in with the keys in the private PostgreSQL, if that runs; otherwise returns
/// what there is to say where they are needed.
pub(super) async fn before_the_private_one(
    settings: &Settings,
    access: &Access,
) -> Result<Option<String>, StartError> {
    let options = Database::options_of_running(settings)?;
    if let Ok(any) = store::any_keys(&options).await {
        access.check_beforehand(address(settings), any)?;
        return Ok(None);
    }
    let refused = access.check_beforehand(address(settings), false).err();
    Ok(refused.map(|error| {
        format!(
            "those in the private PostgreSQL cannot be seen, as it does not run; if there is none, a start is \
             refused: {error}"
        )
    }))
}

/// Looks whether clients could be let in, with the keys that there are in the database already.
pub(super) async fn before_the_schema(
    settings: &Settings,
    access: &Access,
    options: &ConnectOptions,
) -> Result<(), StartError> {
    // Where that cannot be told, it is told when the keys are loaded.
    let any = store::any_keys(options).await.unwrap_or(true);
    Ok(access.check_beforehand(address(settings), any)?)
}

/// Who is let in, by the configuration.
pub(super) async fn access(settings: &Settings) -> Result<Access, StartError> {
    let per_key = KeyLimits {
        requests_per_second: settings.limits.requests_per_second_per_key,
        max_waiters: Some(waiters_per_key(settings)),
    };
    Ok(Access::new(&settings.auth, &settings.jwt, per_key).await?)
}

/// Where clients are served, unless that is a Unix socket.
pub(super) fn address(settings: &Settings) -> Option<SocketAddr> {
    let server = &settings.server;
    server.unix_socket.is_none().then(|| (server.host, server.port).into())
}

/// Clients that may wait with a key that has no limit of its own.
fn waiters_per_key(settings: &Settings) -> u32 {
    settings.long_poll.max_waiters_per_key.unwrap_or_else(|| {
        let share = settings.limits.max_share_per_key_percent.of(settings.long_poll.max_waiters);
        u32::try_from(share).unwrap_or(u32::MAX)
    })
}
