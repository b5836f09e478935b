//! Why a database cannot be made ready.

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// PGMQ is missing and may not be installed.
    #[error(
        "PGMQ is not installed in {target}, and database.install_pgmq is false: have an \
         administrator run CREATE EXTENSION pgmq, or pgmq-gateway migrate"
    )]
    Missing {
        /// Host, port and database.
        target: String,
    },
    /// PGMQ lacks something that the gateway calls.
    #[error("PGMQ {found} in {target} is too old, 1.4.4 or later is needed: {remedy}")]
    TooOld {
        /// The version found.
        found: String,
        /// Host, port and database.
        target: String,
        /// Who has to do what.
        remedy: &'static str,
    },
    /// There is no table of keys.
    #[error("there are no keys in {target}: no gateway has been started on it, and no key made")]
    NoKeys {
        /// Host, port and database.
        target: String,
    },
    /// A right is missing.
    #[error(
        "the database role {role} may not {what} in {target}: have an administrator run \
         {statement}"
    )]
    Forbidden {
        /// The role the gateway connects as.
        role: String,
        /// What was tried.
        what: &'static str,
        /// Host, port and database.
        target: String,
        /// What would help.
        statement: String,
    },
    /// Somebody else may have put something there that would run as this role.
    #[error("{target} is not what it should be: {reason}")]
    Untrusted {
        /// Host, port and database.
        target: String,
        /// What is wrong.
        reason: String,
    },
    /// The installer failed.
    #[error("cannot install PGMQ in {target}: {reason}")]
    Install {
        /// Host, port and database.
        target: String,
        /// What it said.
        reason: String,
    },
    /// Somebody else keeps what has to be changed, for as long as the start may take.
    #[error(
        "cannot change {what} in {target}: {holder} keeps it locked; have that transaction end, or give the start \
         more time (database.connect_timeout_seconds)"
    )]
    Locked {
        /// What was to be changed.
        what: &'static str,
        /// Host, port and database.
        target: String,
        /// Who has it locked, as far as that can be told.
        holder: String,
    },
    /// Anything else that the database said.
    #[error("cannot prepare {target}: {source}")]
    Database {
        /// Host, port and database.
        target: String,
        /// What it said.
        source: sqlx::Error,
    },
}
