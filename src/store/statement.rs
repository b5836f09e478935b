//! What is run, and what comes of each of its rows.

use sqlx::{Postgres, postgres::PgArguments, query::Query};

/// A statement with its parameters.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Whether a row was what it should be.
pub(super) type Taken = std::result::Result<(), sqlx::Error>;
