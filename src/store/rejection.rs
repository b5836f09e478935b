//! Why a single row was refused, while others might have been taken. What PostgreSQL says of it may hold
//! what is in the row, so no more than names is kept.

use std::{fmt, sync::Arc};

use sqlx::postgres::PgDatabaseError;

/// Why a row was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// PostgreSQL has no place for such content; says why.
    Unstorable(&'static str),
    /// A unique constraint or index has such a row already; its name.
    Conflict(Option<Arc<str>>),
    /// Another constraint; its name.
    Constraint(Option<Arc<str>>),
    /// A row-level security policy.
    Policy,
    /// A trigger, or something that it did: the SQLSTATE.
    Trigger(Arc<str>),
    /// The row was dropped without a word, which triggers do.
    NotStored,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &Option<Arc<str>>| {
            name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default()
        };
        match self {
            Self::Unstorable(why) => write!(f, "PostgreSQL cannot store the message: {why}"),
            Self::Conflict(name) => write!(f, "the unique constraint{} refuses it", named(name)),
            Self::Constraint(name) => write!(f, "the constraint{} refuses it", named(name)),
            Self::Policy => f.write_str("a row-level security policy does not allow it"),
            Self::Trigger(code) => write!(f, "a trigger refuses it (SQLSTATE {code})"),
            Self::NotStored => f.write_str("a trigger dropped it"),
        }
    }
}

impl Rejection {
    /// Reads what a function of ours says of a row that was refused.
    pub(super) fn from_outcome(
        outcome: &str,
        code: Option<&str>,
        constraint: Option<&str>,
    ) -> Option<Self> {
        let constraint = constraint.filter(|name| !name.is_empty()).map(Arc::from);
        let code = code.unwrap_or_default();
        match outcome {
            "unstorable" => {
                Some(Self::Unstorable(unstorable(code).unwrap_or("it is not valid there")))
            }
            "conflict" => Some(Self::Conflict(constraint)),
            "forbidden" => Some(Self::Policy),
            "not_stored" => Some(Self::NotStored),
            "rejected" if constraint.is_some() || code.starts_with("23") => {
                Some(Self::Constraint(constraint))
            }
            "rejected" => Some(Self::Trigger(code.into())),
            _ => None,
        }
    }

    /// Reads an error of PostgreSQL's, if it is about a row: of a class that neither the server, nor the
    /// connection, nor the transaction, nor a right on a whole table has.
    pub(super) fn from_database(code: &str, error: &PgDatabaseError) -> Option<Self> {
        let constraint = || error.constraint().map(Arc::from);
        let class = code.get(..2).unwrap_or_default();
        match (code, class) {
            ("23505", _) => Some(Self::Conflict(constraint())),
            (_, "23") => Some(Self::Constraint(constraint())),
            ("42501", _) if error.routine() == Some("ExecWithCheckOptions") => Some(Self::Policy),
            ("PGW23", _) => Some(Self::NotStored),
            ("42501", _) => None,
            (
                _,
                "22" | "42" | "3F" | "0A" | "54" | "P0" | "44" | "38" | "39" | "2F" | "21" | "09"
                | "27",
            ) if is_foreign(error) => Some(Self::Trigger(code.into())),
            _ => None,
        }
    }
}

/// Why PostgreSQL has no place for content, by the SQLSTATE with which it refuses to read it.
pub(super) fn unstorable(code: &str) -> Option<&'static str> {
    match code {
        "22P02" | "22P05" | "22021" | "22032" => Some("its text is not valid in PostgreSQL"),
        "22003" => Some("a number in it is out of PostgreSQL's range"),
        "54001" => Some("it is nested too deeply"),
        "54000" => Some("it is too large"),
        _ => None,
    }
}

/// Whether it was raised while a parameter was read, before any statement of ours began.
pub(super) fn is_in_parameter(error: &PgDatabaseError) -> bool {
    error.r#where().is_some_and(|place| !place.contains("pgmq_gateway."))
}

/// Whether it was raised in something that one of our functions set off and did not call itself, such as a
/// trigger: the innermost function in the context, whatever language that is in, is not ours.
fn is_foreign(error: &PgDatabaseError) -> bool {
    let place = error.r#where().unwrap_or_default();
    place.split_once("pgmq_gateway.").is_some_and(|(inner, _)| inner.contains('('))
}
