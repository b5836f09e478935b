//! A private PostgreSQL for those who have none: found on the machine, kept in a directory that
//! lasts, started with the gateway and stopped with it.

mod binaries;
mod cluster;
mod directory;
mod leftovers;
mod owner;
mod process;

use std::{io, path::PathBuf};

pub use process::{EmbeddedServer, Turn};

/// Why the private PostgreSQL does not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// There are no binaries.
    #[error(
        "no PostgreSQL is installed (looked for postgres and initdb in {looked}): install it with \
         `apt-get install postgresql`, `dnf install postgresql-server` or `brew install \
         postgresql`, or set DATABASE_URL to use a database that you have"
    )]
    NotInstalled {
        /// Where they were looked for.
        looked: String,
    },
    /// The data belongs to another version than the binaries.
    #[error(
        "the data in {data} was made by PostgreSQL {wanted}, but only {found} is installed: \
         install PostgreSQL {wanted}, or set embedded.bin_dir, or move the directory away"
    )]
    OtherVersion {
        /// The data directory.
        data: PathBuf,
        /// The version that made it.
        wanted: u32,
        /// What was found.
        found: String,
    },
    /// Another gateway runs on the same data.
    #[error(
        "another pgmq-gateway uses {0}: stop it, or set embedded.data_dir to another directory"
    )]
    InUse(PathBuf),
    /// PostgreSQL refuses to run as root, and the user it would run as is missing.
    #[error(
        "PostgreSQL does not run as root, and there is no user `{0}` to run it as: set \
         embedded.user to one, or run the gateway as another user"
    )]
    NoUser(String),
    /// A Unix socket's path is at most 107 bytes long.
    #[error(
        "embedded.data_dir {0} is too long for a Unix socket in it: at most 80 bytes are possible"
    )]
    PathTooLong(PathBuf),
    /// PostgreSQL takes its socket's place for a list, which commas divide.
    #[error(
        "the private PostgreSQL cannot be in {0}, as there is a comma in it: set embedded.data_dir to a directory without one"
    )]
    Comma(PathBuf),
    /// The home directory is unknown.
    #[error("cannot tell where to keep the data: set embedded.data_dir")]
    NoHome,
    /// A program failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// `initdb` or `postgres`.
        program: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// The file system said no.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Names what was tried, for an error of the file system.
fn failed(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::Io { doing, path, source }
}
