//! Why keys cannot be administered.

/// Why a key could not be administered: one line for the person who tried.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such key.
    #[error("there is no key {0} that is in force; `pgmq-gateway keys list` shows the keys")]
    NoKey(String),
    /// No secret of it would let anybody in.
    #[error(
        "key {0} lets nobody in, whatever its secret, as its row in pgmq_gateway.api_keys makes no sense: mend that, \
         or make another key; `pgmq-gateway keys list` shows it"
    )]
    Invalid(String),
    /// Something in the database has the last word.
    #[error(
        "the database has not stored key {0} as it was told to: a trigger or a policy on pgmq_gateway.api_keys is in \
         the way; `pgmq-gateway keys list` shows the keys"
    )]
    NotStored(String),
    /// The connection was lost before the database said what came of a change.
    #[error(
        "the connection to the database was lost ({source}), and whether key {id} was changed is not known: \
         `pgmq-gateway keys list` shows the keys, `pgmq-gateway keys rotate {id}` gives it a secret that is shown, \
         and `pgmq-gateway keys revoke {id}` ends it"
    )]
    Unknown {
        /// What names the key.
        id: String,
        /// How it was lost.
        source: sqlx::Error,
    },
    /// The database refused.
    #[error("cannot change the keys: {0}")]
    Database(#[from] sqlx::Error),
}
