//! Why the database cannot be reached, or not be used.

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL makes no sense to the driver.
    #[error("the database URL is not valid: {0}")]
    Url(String),
    /// The server said no, or nothing, until the time was up.
    #[error("cannot connect to {target}: {reason}")]
    Unreachable {
        /// Host, port and database.
        target: String,
        /// What the last attempt said.
        reason: String,
    },
    /// What leads to the database will not do.
    #[error("cannot use {target}: {reason}")]
    Unfit {
        /// Host, port and database.
        target: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}
