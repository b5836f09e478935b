//! All the SQL, and all of sqlx.
//!
//! Free functions over a [`Conn`]; SQLSTATEs become typed errors in `error`, once.

mod conn;
mod error;
mod grants;
mod health;
mod install;
mod messages;
mod pool;
mod queues;
mod schema;
mod wakeups;

pub use conn::{Conn, Db};
pub use error::{Error, Result};
pub use grants::{GrantError, grant_to};
pub use health::{Health, HealthState};
pub use install::{PgmqInstall, PgmqSource, PrepareError, prepare};
pub use messages::{
    Read, archive, delete, message, peek, pop, quarantine, read, read_indexed, read_with_poll,
    release, send, send_batch, set_visibility,
};
pub use pool::{ConnectError, connect, describe_target, long_poll_pool, options};
pub use queues::{
    CreateOutcome, QueueFigures, create, drop_queue, exists, figures, list, metrics, purge, show,
};
/// How to reach a database.
pub use sqlx::postgres::PgConnectOptions as ConnectOptions;
pub use wakeups::{Ears, Heard, Swept, say, sweep};
