//! The database that the settings mean: one that is there, or a private one that is started.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::info;

use crate::{
    auth::AccessError,
    config::{Secret, Settings, Strategy},
    embedded::{EmbeddedError, EmbeddedServer, Turn},
    server::ListenError,
    store::{self, ConnectError, ConnectOptions, GrantError, KeyError, PgmqInstall, PrepareError},
};

/// Connections besides the pools': health, installer.
const EXTRA_CONNECTIONS: u32 = 4;
/// Time for one statement of an installation.
const PREPARE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);
/// Time for a command that uses our private PostgreSQL to end before that is stopped.
const COMMAND_TIME: Duration = Duration::from_secs(5);
/// Time between two attempts to reach a private PostgreSQL whose gateway has just died.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Why the gateway does not start: one line for the person who started it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system lets the process open next to nothing.
    #[error(
        "the limit on open files ({limit}) leaves no room for clients beside the database: raise it, as \
         with `ulimit -n 1024`, LimitNOFILE= or --ulimit nofile="
    )]
    OpenFiles {
        /// How many there may be.
        limit: u64,
    },
    /// The private PostgreSQL does not run.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// There is nothing to look at.
    #[error(
        "no database is configured, and there is no private PostgreSQL in {}: set DATABASE_URL, or start the gateway \
         once", .0.display()
    )]
    NoDatabase(PathBuf),
    /// The database is out of reach.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The database lacks something.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Rights could not be granted.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// Who is let in is not clear.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The keys in the database cannot be loaded.
    #[error("cannot load the keys in the database: {0}")]
    KeySync(store::Error),
    /// Keys could not be administered.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The file of the master key is of no use.
    #[error("sqs.master_key_file: cannot use {path}: {reason}")]
    MasterKey {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Secrets of access keys cannot be derived.
    #[error(
        "this role may not read the master key of access keys in the database: set sqs.master_key_file, here \
         and at every gateway, or do this as the owner of schema pgmq_gateway"
    )]
    NoMasterKey,
    /// An id of a key that no access key can have.
    #[error("access keys are made for keys whose ids consist of letters and digits")]
    NoAccessKey,
    /// A secret is lost that is shown once.
    #[error(
        "key {id} has a new secret, which could not be written out ({source}): `pgmq-gateway keys rotate {id}` \
         gives it another one, and `pgmq-gateway keys revoke {id}` ends it"
    )]
    NotShown {
        /// What names the key.
        id: String,
        /// Why.
        source: std::io::Error,
    },
    /// What was asked for cannot be printed.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    /// What is done cannot be told where it should.
    #[error("{done}, which could not be written to standard output: {source}")]
    Untold {
        /// What it is.
        done: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing can be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system refuses to tell of signals.
    #[error("cannot catch signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// The database, and the server if it is ours.
#[derive(Debug)]
pub struct Database {
    url: Secret,
    direct_url: Option<Secret>,
    server: Option<EmbeddedServer>,
    /// Kept by commands: nobody starts or stops the private PostgreSQL meanwhile.
    turn: Option<Turn>,
}

impl Database {
    /// Starts a private PostgreSQL if no database is configured.
    pub async fn open(settings: &Settings) -> Result<Self, StartError> {
        let database = Self::open_briefly(settings).await?;
        // It stays: commands may use it beside this process from now on.
        Ok(Self { turn: None, ..database })
    }

    /// As [`Database::open`], for a command, which stops it soon.
    pub(super) async fn open_briefly(settings: &Settings) -> Result<Self, StartError> {
        if let Some(configured) = Self::configured(settings) {
            return Ok(configured);
        }
        let turn = Turn::wait(&settings.embedded, settings.database.connect_timeout()).await?;
        let server = Self::start_server(settings).await?;
        Ok(Self { url: server.url(), direct_url: None, server: Some(server), turn: Some(turn) })
    }

    fn configured(settings: &Settings) -> Option<Self> {
        let url = settings.database.url.clone()?;
        let direct_url = settings.database.direct_url.clone();
        Some(Self { url, direct_url, server: None, turn: None })
    }

    async fn start_server(settings: &Settings) -> Result<EmbeddedServer, EmbeddedError> {
        let connections = settings.database.max_connections
            + settings.long_poll.max_connections
            + EXTRA_CONNECTIONS;
        let server = EmbeddedServer::start(&settings.embedded, connections, &[]).await?;
        info!(data = %server.dir().display(), psql = server.psql(), "no database configured: using a private PostgreSQL");
        Ok(server)
    }

    /// As [`Database::open_briefly`], beside a gateway that may run already.
    pub(super) async fn reach(settings: &Settings) -> Result<Self, StartError> {
        if let Some(configured) = Self::configured(settings) {
            return Ok(configured);
        }
        let limit = settings.database.connect_timeout();
        let turn = Turn::wait(&settings.embedded, limit).await?;
        let deadline = Instant::now() + limit;
        let (url, server) = loop {
            match Self::start_server(settings).await {
                Ok(server) => break (server.url(), Some(server)),
                Err(EmbeddedError::InUse(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let url = EmbeddedServer::url_of_running(&settings.embedded)?;
            let options = ConnectOptions::new(url.expose(), PREPARE_STATEMENT_TIMEOUT, false)?;
            match store::connect(&options, Duration::ZERO).await {
                Ok(()) => break (url, None),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                // Its gateway has stopped it, or has just died: the next attempt may start it.
                Err(_) => sleep(RETRY_INTERVAL).await,
            }
        };
        Ok(Self { url, direct_url: None, server, turn: Some(turn) })
    }

    /// Options to reach the private PostgreSQL while a gateway or a command runs it.
    pub(super) fn options_of_running(settings: &Settings) -> Result<ConnectOptions, StartError> {
        let url = EmbeddedServer::url_of_running(&settings.embedded)?;
        Ok(ConnectOptions::new(url.expose(), PREPARE_STATEMENT_TIMEOUT, false)?)
    }

    /// Where the private PostgreSQL is, if no database is configured, and whether it is yet to be made.
    pub(super) fn private(settings: &Settings) -> Result<Option<(PathBuf, bool)>, EmbeddedError> {
        if settings.database.url.is_some() {
            return Ok(None);
        }
        let directory = EmbeddedServer::directory(&settings.embedded)?;
        Ok(Some((directory, EmbeddedServer::is_new(&settings.embedded)?)))
    }

    /// Options for the pools.
    pub(super) fn options(&self, settings: &Settings) -> Result<ConnectOptions, ConnectError> {
        let database = &settings.database;
        let pooler = database.transaction_pooler;
        ConnectOptions::new(self.url.expose(), database.statement_timeout(), pooler)
    }

    /// Options for what a pooler would break: installing and migrating.
    pub(super) fn direct_options(
        &self,
        settings: &Settings,
    ) -> Result<ConnectOptions, ConnectError> {
        let (url, pooler) = match &self.direct_url {
            Some(direct) => (direct, false),
            None => (&self.url, settings.database.transaction_pooler),
        };
        ConnectOptions::new(url.expose(), PREPARE_STATEMENT_TIMEOUT, pooler)
    }

    /// Waits until the database can be reached, and looks at what leads there.
    pub(super) async fn reach_all(&self, settings: &Settings) -> Result<(), ConnectError> {
        let limit = settings.database.connect_timeout();
        store::connect(&self.options(settings)?, limit).await?;
        match self.direct_url {
            Some(_) => store::connect(&self.direct_options(settings)?, limit).await,
            None => Ok(()),
        }
    }

    /// How many connections a gateway takes at the most: those of the pools, one to see whether the
    /// database is ready, and one that listens.
    pub(super) fn connections(&self, settings: &Settings) -> Result<u32, ConnectError> {
        let listening = u32::from(self.listen_options(settings)?.is_some());
        let waiting = match settings.long_poll.strategy {
            Strategy::Shared => 0,
            Strategy::ReadWithPoll => settings.long_poll.max_connections,
        };
        Ok(settings.database.max_connections + waiting + 1 + listening)
    }

    /// Options for listening, if there is a way that takes LISTEN: a transaction pooler does not.
    pub(super) fn listen_options(
        &self,
        settings: &Settings,
    ) -> Result<Option<ConnectOptions>, ConnectError> {
        if self.direct_url.is_none() && settings.database.transaction_pooler {
            return Ok(None);
        }
        self.direct_options(settings).map(Some)
    }

    /// Installs and migrates, whatever `database.install_pgmq` says: it was asked for by name.
    pub async fn migrate(
        &self,
        settings: &Settings,
        grant_to: Option<&str>,
    ) -> Result<PgmqInstall, StartError> {
        let options = self.direct_options(settings)?;
        let patience = settings.database.connect_timeout();
        store::connect(&options, patience).await?;
        let pgmq = store::prepare(&options, true, patience).await?.pgmq;
        if let Some(role) = grant_to {
            store::grant_to(&options, role).await?;
        }
        Ok(pgmq)
    }

    /// Whether the server is ours, so that no gateway is on it.
    pub(super) fn is_ours(&self) -> bool {
        self.server.is_some()
    }

    /// The server, if it is ours.
    pub(super) fn server(&mut self) -> Option<&mut EmbeddedServer> {
        self.server.as_mut()
    }

    /// Stops the server, if it is ours.
    pub async fn stop(self) {
        let Self { server, mut turn, .. } = self;
        if let Some(server) = server {
            if turn.is_none() {
                // A command is let end; one that takes its time is not waited for.
                turn = server.turn(COMMAND_TIME).await.ok();
            }
            server.stop().await;
        }
        drop(turn);
    }
}
