//! Why a single row was refused, while others might have been taken. What PostgreSQL says of it may hold
//! what is in the row, so no more than names is kept.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc};

use sqlx::{
    error::{DatabaseError, ErrorKind},
    postgres::{PgDatabaseError, PgSeverity},
};

/// What statements on tables of queues begin with, inside our functions. In the context of an error, what
/// stands before it was set off by the statement.
const MARK: &str = "/* pgmq_gateway */";

/// The words that are left of how PostgreSQL calls the loop over a cursor in any language, in the line of the function
/// that has it: what fails while rows are fetched has no line of the statement itself.
const CURSOR: [&str; 2] = ["FOR", "EXECUTE"];

/// The SQLSTATE of what PostgreSQL does not support, by which a rule goes that has a statement do something else.
const BY_RULE: &str = "0A000";

/// Source files of PostgreSQL whose errors name tables, files and memory, and nothing that is in a row.
const DISCREET: [&str; 10] = [
    "aclchk.c",
    "aset.c",
    "fd.c",
    "heapam.c",
    "lock.c",
    "mcxt.c",
    "md.c",
    "namespace.c",
    "parse_relation.c",
    "relation.c",
];

/// Why a row was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// PostgreSQL has no place for such content; says why.
    Unstorable(&'static str),
    /// A unique constraint or index has such a row already; its name.
    Conflict(Option<Arc<str>>),
    /// Another constraint; its name.
    Constraint(Option<Arc<str>>),
    /// A row-level security policy, or the lack of a right that a trigger needs.
    Policy,
    /// A trigger, or something that it did: the SQLSTATE.
    Trigger(Arc<str>),
    /// The row was dropped without a word, which triggers do.
    NotStored,
    /// A trigger failed for a reason that may pass: the SQLSTATE.
    Failed(Arc<str>),
    /// The table is not as PGMQ makes it: which column, and of what.
    Differs(Option<Arc<str>>),
    /// A sequence that storing there needs has reached its end.
    Exhausted,
    /// The gateway's database role may store nothing there.
    NoRight,
    /// A deduplication id could not be written down: as [`Error::KeyRefused`](super::Error::KeyRefused) has it.
    IdRefused(Option<Arc<str>>),
    /// The table or the archive that it was to be taken from keeps it.
    KeptBySource,
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
            Self::Policy => f.write_str("a policy, or a right that is missing, does not allow it"),
            Self::Trigger(code) => write!(f, "a trigger refuses it (SQLSTATE {code})"),
            Self::NotStored => f.write_str("a trigger dropped it"),
            Self::Failed(code) => write!(f, "a trigger failed (SQLSTATE {code})"),
            Self::Differs(_) => f.write_str("the table is not as PGMQ makes it"),
            Self::Exhausted => f.write_str("a sequence has reached its end"),
            Self::NoRight => f.write_str("the database role lacks a right"),
            Self::IdRefused(_) => f.write_str("a deduplication id was refused"),
            Self::KeptBySource => f.write_str("what it was to be taken from keeps it"),
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
            "no_right" => Some(Self::NoRight),
            "unnoted" => Some(Self::IdRefused(refusal_code(code))),
            "failed" => Some(Self::Failed(code.into())),
            "differs" => Some(Self::Differs(constraint)),
            "rejected" if constraint.is_some() || code.starts_with("23") => {
                Some(Self::Constraint(constraint))
            }
            "rejected" => Some(Self::Trigger(code.into())),
            _ => None,
        }
    }

    /// Reads an error of PostgreSQL's, if it is about a row: raised by what guards its table, or by a class
    /// that neither the server, nor the connection, nor the transaction, nor a right on a whole table has.
    pub(super) fn from_database(code: &str, error: &PgDatabaseError) -> Option<Self> {
        if !matches!(error.severity(), PgSeverity::Error) {
            return None;
        }
        let constraint = || error.constraint().map(Arc::from);
        let raised = Raised::of(error);
        let trigger = || Some(Self::Trigger(code.into()));
        if is_by_rule(error) {
            return Some(Self::Trigger(BY_RULE.into()));
        }
        match (code, code.get(..2).unwrap_or_default()) {
            ("23505", _) => Some(Self::Conflict(constraint())),
            (_, "23") => Some(Self::Constraint(constraint())),
            ("PGW23", _) if raised != Raised::ByTrigger => Some(Self::NotStored),
            // It waits, is undone or is told to stop, wherever that happens. A trigger can raise the last one of
            // itself, and passes it on from another server.
            ("55P03", _) | (_, "40") => None,
            ("57014", _) if raised != Raised::ByTrigger || is_told_to_stop(error) => None,
            // A trigger may know our codes.
            (_, "PG") => {
                if raised == Raised::ByTrigger {
                    trigger()
                } else {
                    None
                }
            }
            // PGMQ drops a table that something else depends on.
            ("2BP01", _) if raised == Raised::Nested => None,
            ("42501", _) => {
                let by_policy = error.routine() == Some("ExecWithCheckOptions");
                (by_policy || raised == Raised::ByTrigger).then_some(Self::Policy)
            }
            (_, "08" | "25" | "53" | "55" | "57" | "58" | "F0" | "HV" | "XX") => {
                if raised == Raised::ByTrigger { trigger() } else { None }
            }
            // What only values can be to blame for.
            (_, "21" | "22" | "27" | "2F" | "38" | "39" | "44" | "P0") => {
                if raised == Raised::Elsewhere { None } else { trigger() }
            }
            _ => match raised {
                Raised::ByTrigger | Raised::ByTable | Raised::Nested => trigger(),
                Raised::ByUs | Raised::Elsewhere => None,
            },
        }
    }
}

/// A table of the gateway's own that takes no row where something on it refuses that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnTable {
    /// `idempotency_keys`.
    Keys,
    /// `deduplication_ids`.
    Ids,
}

impl OwnTable {
    /// The functions of ours that work on each, and on nothing else.
    const FUNCTIONS: [(Self, &str); 9] = [
        (Self::Ids, "note_deduplication("),
        (Self::Ids, "earlier_ids("),
        (Self::Keys, "note_stored("),
        (Self::Keys, "note_answers("),
        (Self::Keys, "claim_idempotency_key("),
        (Self::Keys, "claim_idempotency_keys("),
        (Self::Keys, "claim_new_keys("),
        (Self::Keys, "earlier_results("),
        (Self::Keys, "are_new_keys("),
    ];

    /// The one that refuses a row, or to be looked at, and why, if that is said: no error of the server's, of the
    /// table's shape, or because of what others do.
    pub(super) fn of(error: &PgDatabaseError) -> Option<(Self, Option<Arc<str>>)> {
        let (code, context) = (error.code(), error.r#where()?);
        let class = code.get(..2).unwrap_or_default();
        let is_passing = matches!(class, "08" | "25" | "40" | "53" | "55" | "57" | "58" | "XX");
        if is_passing || class == "42" && code != "42501" {
            return None;
        }
        // A key that somebody else has claimed meanwhile.
        if code == "23505" && !is_by_others(context) {
            return None;
        }
        let is_at_work = |function: &str| context.contains(&format!("pgmq_gateway.{function}"));
        let found = Self::FUNCTIONS.iter().find(|(_, function)| is_at_work(function))?;
        Some((found.0, refusal_code(code)))
    }
}

/// Why a row of ours was refused: nothing where it was dropped without a word.
pub(super) fn refusal_code(code: &str) -> Option<Arc<str>> {
    Some(code).filter(|code| !matches!(*code, "" | "PGW35")).map(Arc::from)
}

/// What raised an error, going by its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Raised {
    /// Something that one of our statements on a queue's table set off, such as a trigger; at the commit, too.
    ByTrigger,
    /// Something that another statement of ours set off, or of PGMQ's.
    Nested,
    /// Such a statement itself, while it ran: a constraint, or an expression of an index or a policy.
    ByTable,
    /// One of our functions, or PostgreSQL when it read a statement of ours.
    ByUs,
    /// No function that is known to us was at work.
    Elsewhere,
}

impl Raised {
    fn of(error: &PgDatabaseError) -> Self {
        let context = error.r#where().unwrap_or_default();
        if is_put_off(context) {
            return Self::ByTrigger;
        }
        let is_nested = |end: usize| context[..end].contains('\n');
        let known =
            ["pgmq_gateway.", "pgmq."].iter().filter_map(|schema| context.find(schema)).min();
        match (context.find(MARK).map(is_nested), known.map(is_nested)) {
            (Some(true), _) => Self::ByTrigger,
            (Some(false), _) => Self::ByTable,
            (None, Some(true)) if is_by_others(context) => Self::ByTrigger,
            (None, Some(true)) => Self::Nested,
            (None, Some(false)) if is_of_cursor(context) => Self::ByTable,
            (None, Some(false)) => Self::ByUs,
            // Constraints that are checked at the end have triggers that no statement set off.
            (None, None) if context.contains('(') && unstorable(error.code()).is_none() => {
                Self::ByTable
            }
            (None, None) => Self::Elsewhere,
        }
    }
}

/// Whether PostgreSQL itself ended the statement: its time was up, or somebody asked for it.
fn is_told_to_stop(error: &PgDatabaseError) -> bool {
    error.routine() == Some("ProcessInterrupts")
}

/// Whether a trigger raised it that had been put off to the commit, where no function of ours is at work any more:
/// the last line of the context is what began.
fn is_put_off(context: &str) -> bool {
    context.lines().last().is_some_and(|outermost| {
        outermost.contains("PL/")
            && !outermost.contains("pgmq_gateway.")
            // Triggers take no arguments, and what we call of PGMQ's does.
            && (!outermost.contains("pgmq.") || outermost.contains("()"))
    })
}

/// Whether code that is neither ours nor PGMQ's raised it, such as a function that a policy calls: it has the first
/// lines of the context.
fn is_by_others(context: &str) -> bool {
    let is_known = |line: &str| line.contains("pgmq_gateway.") || line.contains("pgmq.");
    context.lines().take_while(|line| !is_known(line)).any(|line| line.contains("PL/"))
}

/// Whether it failed while one of our functions fetched rows from a cursor, as an expression of a policy does.
fn is_of_cursor(context: &str) -> bool {
    context.lines().next().is_some_and(|line| CURSOR.iter().all(|word| line.contains(word)))
}

/// The same error without what somebody's code, or an expression on a table, says in it, which may hold what is in a
/// row.
pub(super) fn hushed(error: sqlx::Error) -> sqlx::Error {
    let database = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>());
    match database.filter(|error| may_quote_row(error)) {
        Some(error) => sqlx::Error::Database(Box::new(Hushed {
            code: error.code().to_owned(),
            routine: error.routine().unwrap_or("unknown").to_owned(),
        })),
        None => error,
    }
}

fn may_quote_row(error: &PgDatabaseError) -> bool {
    let set_off = matches!(Raised::of(error), Raised::ByTrigger | Raised::Nested | Raised::ByTable);
    set_off && !error.file().is_some_and(|file| DISCREET.contains(&file))
}

/// What is left of such an error.
#[derive(Debug, thiserror::Error)]
#[error(
    "a trigger, a policy or something else on the table failed (SQLSTATE {code}, raised in {routine})"
)]
struct Hushed {
    code: String,
    /// Where in PostgreSQL's source.
    routine: String,
}

impl DatabaseError for Hushed {
    fn message(&self) -> &'static str {
        "a trigger, a policy or something else on the table failed"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.code))
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// Whether an expression on a table failed for no reason of the row's, as that of a policy does that asks for a
/// setting which is not there.
pub(super) fn is_by_broken_expression(error: &PgDatabaseError) -> bool {
    error.code() == "42704" && is_by_table(error)
}

/// Whether a statement on a queue's table raised it itself.
pub(super) fn is_by_table(error: &PgDatabaseError) -> bool {
    Raised::of(error) == Raised::ByTable
}

/// Whether a statement of ours returned nothing, as a rule of its table does something else instead: PostgreSQL has the
/// code of a syntax error for it, as for the statement on a table that is gone.
pub(super) fn is_by_rule(error: &PgDatabaseError) -> bool {
    let returned_nothing =
        matches!(error.routine(), Some("exec_stmt_dynexecute" | "_SPI_execute_plan"));
    error.code() == "42601" && returned_nothing && !is_by_trigger(error)
}

/// Whether something raised it that a statement on a queue's table set off.
pub(super) fn is_by_trigger(error: &PgDatabaseError) -> bool {
    Raised::of(error) == Raised::ByTrigger
}

/// Why PostgreSQL has no place for content, by the SQLSTATE with which it refuses to read it.
pub(super) fn unstorable(code: &str) -> Option<&'static str> {
    match code {
        "22P02" | "22P05" | "22021" | "22032" => Some("its text is not valid in PostgreSQL"),
        "22003" => Some("a number in it is out of PostgreSQL's range"),
        "54001" => Some("it is nested too deeply"),
        "54000" => Some("it is too large"),
        "0A000" => Some(
            "it has an escape (`\\u` and a number) for which the database's encoding has no character: what is sent \
             in UTF-8 instead can be stored there",
        ),
        _ => None,
    }
}

/// Whether it was raised while a parameter was read, before any statement of ours began.
pub(super) fn is_in_parameter(error: &PgDatabaseError) -> bool {
    error.r#where().is_some_and(|place| !place.contains("pgmq_gateway."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loop_over_a_cursor_is_known_in_all_languages() {
        for line in [
            "PL/pgSQL function pgmq_gateway.receive(text) line 130 at FOR over EXECUTE statement",
            "PL/pgSQL-Funktion pgmq_gateway.receive(text) Zeile 130 bei FOR-über-EXECUTE-Anweisung",
            "PL/pgSQL関数pgmq_gateway.receive(text)の130行目 - EXECUTE ステートメントを使った FOR",
            "在在EXECUTE语句上的FOR语句的第130行的PL/pgSQL函数pgmq_gateway.receive(text)",
            "pgmq_gateway.receive(text) PL/pgSQL fonksiyonu, 130. satır, EXECUTE ifadesinde FOR içinde",
        ] {
            assert!(is_of_cursor(line), "{line}");
            assert!(!is_of_cursor(&format!("SQL expression \"true\"\n{line}")), "{line}");
        }
        for line in [
            "PL/pgSQL function pgmq_gateway.receive(text) line 130 at EXECUTE",
            "PL/pgSQL-Funktion pgmq_gateway.receive(text) Zeile 130 bei FOR über SELECT-Zeilen",
        ] {
            assert!(!is_of_cursor(line), "{line}");
        }
    }
}
