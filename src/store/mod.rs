//! All the SQL, and all of sqlx.
//!
//! Free functions over a [`Conn`]; SQLSTATEs become typed errors in `error`, once.

mod archives;
mod background_conn;
mod backoff;
mod browse;
mod clock;
mod conn;
mod connect;
mod connect_error;
mod control;
mod db;
mod decode;
mod error;
mod failure;
mod floor;
mod grants;
mod health;
mod idempotency;
mod indexes;
mod inspect;
mod install;
mod kept_lease;
mod key_changes;
mod key_error;
mod keys;
mod known_tables;
mod maintenance;
mod messages;
mod missing_grants;
mod move_tasks;
mod multi_queue;
mod once;
mod pool;
mod pooler;
mod prepare_error;
mod progress;
mod queue_attributes;
mod queues;
mod reads;
mod refusal;
mod rejection;
mod reports;
mod schema;
mod session;
mod settings;
mod settling;
mod settling_reads;
mod shared;
mod shared_sends;
mod shared_transactions;
mod size_limited_rows;
mod statement;
mod table_health;
mod topics;
mod transactions;
mod trust;
mod upgrade_locks;
mod verdict;
mod wakeups;

pub use archives::{
    ArchiveStep, Archived, ArchivedCount, Moved, Step, Unreturnable, browse_archive,
    count_archived, redrive, redrive_these, replay,
};
pub use background_conn::BackgroundConn;
pub use backoff::{Backoff, Complaint};
pub use browse::{
    BrowseLimits, Browsed, ListedMessage, MessageSearch, MessageSource, Position, browse_messages,
};
pub use clock::DatabaseClock;
pub use conn::Conn;
pub use connect::connect;
pub use connect_error::ConnectError;
pub use db::Db;
pub use error::{Error, Result};
pub use floor::{VisibleLook, lowest_visible, next_due};
pub use grants::{GrantError, grant_to};
pub use health::{Health, HealthState};
pub use idempotency::{Idempotency, SendOutcome, SendRequest, Sent};
pub use indexes::{GroupIndex, group_index_work, note_fifo};
pub use inspect::{Inspection, inspect};
pub use install::{Features, PgmqInstall, PgmqSource, Prepared, prepare};
pub use key_changes::{create_key, revoke_key, rotate_key};
pub use key_error::KeyError;
pub use keys::{
    KeyState, ListedKey, LoadedKeys, any_keys, check_keys, keys_used, list_keys, load_keys,
    shown_keys,
};
pub use maintenance::{
    ExpiryStep, QueueRetention, RegisterStep, delete_expired_archive, delete_expired_keys,
    delete_expired_messages, queues_with_retention, queues_with_row_security, register_queues,
};
pub use messages::{Looked, advance_sequence, look, message, peek, send, send_each};
pub use missing_grants::MissingGrant;
pub use move_tasks::{
    MoveTask, advance_move_task, cancel_move_task, claim_move_task, has_letters_left,
    list_move_tasks, start_move_task,
};
pub use multi_queue::{
    QueueOutcome, QueueRead, end_in_queues, receive_from_queues, send_to_queues,
};
pub use once::{earlier_answer, send_once};
pub use pool::Pool;
pub use prepare_error::PrepareError;
pub use queue_attributes::{
    AttributesBeside, AttributesChange, IdOwner, MAX_ATTRIBUTE_BYTES, NamedQueue, QueueAttributes,
    aliases, change_queue_attributes, dead_letter_sources, delete_expired_attributes,
    first_message_ids, is_purged, list_aliases, note_purge, queue_attributes, queue_ids, whose_id,
};
pub use queues::{
    CreateOutcome, Deleted, DropOutcome, LookLimits, QueueFigures, TableAccess, create,
    delete_next, drop_queue, exists, figures, is_served, last_id, list, metrics, names,
    read_refusal, show, table_access, truncate,
};
pub use reads::{
    DeadLetters, Found, Kept, PassedOver, Pop, Popped, Quarantined, Read, pop, quarantine,
    quarantine_these, read, read_with_poll, release,
};
pub use refusal::{Refusal, TooLarge};
pub use rejection::Rejection;
pub use session::{ConnectOptions, Process};
pub use settings::{Configured, all_settings, change_settings, check_notify};
pub use settling::{
    Action, SettleRules, VisibilityChange, archive, delete, set_visibility, settle,
};
pub use settling_reads::{EndedAndRead, settle_and_read};
pub use shared_sends::{SentTogether, send_together};
pub use shared_transactions::{SharedOutcome, SharedRequest, transact_each};
pub use size_limited_rows::Page;
pub use table_health::{CleanupHolder, TableHealth, cleanup_holders, table_health};
pub use topics::{BindOutcome, Binding, bind, bindings, route, unbind};
pub use transactions::{Operation, PublishLimits, Transacted, transact};
pub use wakeups::{
    Notification, NotificationListener, Swept, committed, notify, sweep, sweep_again,
};
