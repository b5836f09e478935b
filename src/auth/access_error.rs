//! Why nobody could be let in.

use std::{io, net::SocketAddr, path::PathBuf};

use super::jwks::JwksError;

/// Why the gateway does not start with these keys.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file with a key cannot be read.
    #[error("auth.keys: cannot read the file {path} of key `{name}`: {source}")]
    KeyFile {
        /// Which key.
        name: String,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key that can be guessed, or that nobody can show.
    #[error("auth.keys: the file of key `{name}` holds none: {fault}")]
    UnusableKey {
        /// Which key.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Two keys that are the same one.
    #[error(
        "auth: `{0}` and `{1}` are the same key: what it may do would depend on which of them is found"
    )]
    SameKey(String, String),
    /// The signer's keys are not there.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// A credential is needed, and nobody can have one.
    #[error(
        "auth.mode is \"required\", but there is no key: make one with `pgmq-gateway keys create`, \
         or set auth.admin_key, auth.keys or [jwt]"
    )]
    NoKeys,
    /// Without a credential, only this machine is served.
    #[error(
        "without a key, {0} would let everyone in who reaches it: make a key with `pgmq-gateway \
         keys create` or set auth.admin_key, or listen on 127.0.0.1, or say auth.mode = \"none\" \
         where the network lets in the right ones only"
    )]
    Exposed(SocketAddr),
}
