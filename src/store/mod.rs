//! All the SQL, and all of sqlx.
//!
//! Free functions over a [`Conn`]; SQLSTATEs become typed errors in `error`, once.

mod archives;
mod conn;
mod decode;
mod errand;
mod error;
mod fitted;
mod grants;
mod health;
mod install;
mod keys;
mod maintenance;
mod messages;
mod pool;
mod queues;
mod reads;
mod rejection;
mod schema;
mod settings;
mod settling;
mod shared;
mod topics;
mod transactions;
mod wakeups;

pub use archives::{Archived, Moved, browse_archive, count_archived, redrive, replay};
pub use conn::{Conn, Db};
pub use errand::Errand;
pub use error::{Error, Refusal, Result, TooLarge};
pub use fitted::Page;
pub use grants::{GrantError, grant_to};
pub use health::{Health, HealthState};
pub use install::{Features, PgmqInstall, PgmqSource, PrepareError, Prepared, prepare};
pub use keys::{
    KeyError, ListedKey, LoadedKeys, create_key, keys_used, list_keys, load_keys, revoke_key,
    rotate_key,
};
pub use maintenance::{
    QueueRetention, delete_expired_archive, delete_expired_keys, delete_expired_messages,
    queues_with_retention, register_queues,
};
pub use messages::{SendOutcome, advance_sequence, message, peek, send, send_each};
pub use pool::{ConnectError, connect, describe_target, long_poll_pool, options};
pub use queues::{
    CreateOutcome, LookLimits, QueueFigures, create, delete_next, drop_queue, exists, figures,
    last_id, list, metrics, names, read_refusal, show, truncate,
};
pub use reads::{
    DeadLetters, Found, Kept, Pop, Popped, Read, pop, quarantine, quarantine_these, read,
    read_with_poll, release,
};
pub use rejection::Rejection;
pub use settings::{AllSettings, Configured, all_settings, change_settings};
pub use settling::{Action, archive, delete, set_visibility, settle};
/// How to reach a database.
pub use sqlx::postgres::PgConnectOptions as ConnectOptions;
pub use topics::{BindOutcome, Binding, bind, bindings, route, unbind};
pub use transactions::{Idempotency, Operation, PublishLimits, Transacted, transact};
pub use wakeups::{Ears, Heard, Swept, say, sweep, sweep_again};
