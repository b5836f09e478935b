//! The keys of the database: known to the door, looked at again and again.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::{
    auth::Access,
    config::{AuthMode, Settings},
    store::{self, Db},
};

use super::StartError;

/// Time between two notes of which keys were used.
const NOTE_INTERVAL: Duration = Duration::from_secs(30);

/// Tells the door which keys there are, and the database which were used.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    access: Arc<Access>,
    db: Db,
    refresh: Duration,
    /// Time between two looks at the keys of whoever signs tokens.
    signer: Option<Duration>,
    /// Nobody needs a key, and nobody will.
    idle: bool,
}

impl Doorkeeper {
    pub(super) fn new(access: &Arc<Access>, db: Db, settings: &Settings) -> Self {
        Self {
            access: Arc::clone(access),
            db,
            refresh: settings.auth.refresh_interval(),
            signer: settings.jwt.is_on().then(|| settings.jwt.refresh_interval()),
            idle: settings.auth.mode == AuthMode::None,
        }
    }

    /// Loads the keys for the first time.
    pub(super) async fn load(&self) -> Result<(), StartError> {
        if self.idle {
            return Ok(());
        }
        self.refresh().await.map_err(StartError::Doorkeeper)
    }

    /// Works until it is dropped. Keys that cannot be loaded stay as they were.
    pub(super) async fn run(self) {
        if self.idle {
            return;
        }
        let (mut noted, mut signer_seen) = (Instant::now(), Instant::now());
        loop {
            sleep(self.refresh).await;
            if let Err(error) = self.refresh().await {
                debug!(%error, "keys cannot be looked at");
            }
            if noted.elapsed() >= NOTE_INTERVAL {
                self.note().await;
                noted = Instant::now();
            }
            if self.signer.is_some_and(|interval| signer_seen.elapsed() >= interval) {
                self.access.reload_signer().await;
                signer_seen = Instant::now();
            }
        }
    }

    async fn refresh(&self) -> store::Result<()> {
        let mut conn = self.db.errand().await?;
        let keys = store::load_keys(&mut conn).await?;
        self.access.replace_keys(keys);
        Ok(())
    }

    async fn note(&self) {
        let (ids, times): (Vec<_>, Vec<_>) = self.access.take_used().into_iter().unzip();
        if ids.is_empty() {
            return;
        }
        let noted = async {
            let mut conn = self.db.errand().await?;
            store::keys_used(&mut conn, &ids, &times).await
        };
        if let Err(error) = noted.await {
            debug!(%error, "the use of keys cannot be noted");
        }
    }
}
