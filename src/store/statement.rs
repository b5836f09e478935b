//! What is run, and what comes of each of its rows.

use sqlx::{
    Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

/// A statement with its parameters.
pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// Whether a row was what it should be.
pub(super) type Taken = std::result::Result<(), sqlx::Error>;

/// Who takes the rows of a statement, one by one as they come in.
pub(super) trait Rows: Send {
    fn take(&mut self, row: PgRow) -> Taken;

    /// Starts over where the statement was undone and is run again; not everybody can.
    fn start_over(&mut self) -> bool;
}

impl<F: FnMut(PgRow) -> Taken + Send> Rows for F {
    fn take(&mut self, row: PgRow) -> Taken {
        self(row)
    }

    fn start_over(&mut self) -> bool {
        false
    }
}

/// All of them, until the statement is at its end.
#[derive(Default)]
pub(super) struct Kept(pub(super) Vec<PgRow>);

impl Rows for Kept {
    fn take(&mut self, row: PgRow) -> Taken {
        self.0.push(row);
        Ok(())
    }

    fn start_over(&mut self) -> bool {
        self.0.clear();
        true
    }
}
