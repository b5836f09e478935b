//! The keys of the database: known to the door, looked at again and again.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::{
    auth::Access,
    config::{AuthMode, Settings},
    store::{self, DatabaseClock, Db},
};

use super::StartError;

/// Looks at the keys between two notes of which were used.
const NOTE_EVERY: u32 = 30;

/// Time between two complaints that keys cannot be loaded.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Tells the door which keys there are, and the database which were used.
#[derive(Debug)]
pub(super) struct KeySync {
    access: Arc<Access>,
    db: Db,
    refresh: Duration,
    /// Time between two looks at the keys of whoever signs tokens.
    signer: Option<Duration>,
    /// Nobody needs a key, and nobody will.
    idle: bool,
    clock: DatabaseClock,
}

impl KeySync {
    pub(super) fn new(access: &Arc<Access>, db: Db, settings: &Settings) -> Self {
        Self {
            access: Arc::clone(access),
            db,
            refresh: settings.auth.refresh_interval(),
            signer: settings.jwt.is_on().then(|| settings.jwt.refresh_interval()),
            idle: settings.auth.mode == AuthMode::None,
            clock: DatabaseClock::default(),
        }
    }

    /// Loads the keys for the first time.
    pub(super) async fn load(&self) -> Result<(), StartError> {
        if self.idle {
            return Ok(());
        }
        self.refresh().await.map_err(StartError::KeySync)
    }

    /// Works until it is dropped. Keys that cannot be loaded stay as they were.
    pub(super) async fn run(self) {
        if !self.idle {
            tokio::join!(self.watch_keys(), self.watch_signer());
        }
    }

    async fn watch_keys(&self) {
        let mut complained = None::<Instant>;
        for round in (1..=NOTE_EVERY).cycle() {
            sleep(self.refresh).await;
            match self.refresh().await {
                Ok(()) if complained.take().is_some() => info!("keys are looked at again"),
                Ok(()) => {}
                Err(error) => {
                    if complained.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
                        warn!(%error, "keys cannot be looked at: one that is revoked stays in force");
                        complained = Some(Instant::now());
                    }
                }
            }
            if round == NOTE_EVERY {
                self.note().await;
            }
        }
    }

    async fn watch_signer(&self) {
        let Some(interval) = self.signer else { return };
        loop {
            sleep(interval).await;
            self.access.reload_signer().await;
        }
    }

    async fn refresh(&self) -> store::Result<()> {
        let mut conn = self.db.background_conn().await?;
        let loaded = store::load_keys(&mut conn, &self.clock).await?;
        self.access.replace_keys(loaded.keys, loaded.any);
        Ok(())
    }

    async fn note(&self) {
        let (ids, times): (Vec<_>, Vec<_>) = self.access.take_used().into_iter().unzip();
        if ids.is_empty() {
            return;
        }
        let noted = async {
            let mut conn = self.db.background_conn().await?;
            store::keys_used(&mut conn, &ids, &times).await
        };
        if let Err(error) = noted.await {
            debug!(%error, "the use of keys cannot be noted");
        }
    }
}
