//! Sorts what the store said.

use std::{fmt, sync::Arc};

use crate::{
    domain::QueueName,
    store::{self, Rejection},
};

use super::{super::refusals, Error, Part};

impl Error {
    /// Sorts what the store said of work on `queue`.
    pub(in crate::broker) fn on(queue: &QueueName) -> impl Fn(store::Error) -> Self + use<'_> {
        move |error| match error {
            store::Error::QueueNotFound => Self::QueueNotFound(queue.to_string()),
            store::Error::Forbidden(_)
            | store::Error::NotDone(_)
            | store::Error::Rejected(Rejection::Policy | Rejection::NoRight) => {
                Self::Forbidden { queue: format!("queue `{queue}`"), source: error }
            }
            store::Error::Locked => Self::Locked(format!("queue `{queue}`, or something in it")),
            store::Error::NoArchive => Self::NoArchive(queue.to_string()),
            store::Error::Rejected(Rejection::Trigger(code) | Rejection::Failed(code)) => {
                Self::ReadFails { queue: queue.to_string(), code }
            }
            store::Error::Rejected(Rejection::Conflict(_) | Rejection::Constraint(_)) => {
                Self::ReadFails { queue: queue.to_string(), code: "class 23".into() }
            }
            store::Error::SequenceBehind => {
                Self::SequenceBehind { queue: format!("queue `{queue}`"), source: error }
            }
            store::Error::Exhausted(_) => {
                Self::IdsExhausted { queue: format!("queue `{queue}`"), source: error }
            }
            store::Error::TableDiffers { ref what, .. } => Self::TableDiffers {
                queue: queue.to_string(),
                what: Arc::clone(what),
                source: Some(error),
            },
            store::Error::NoReplicaIdentity { of_queue: true } => {
                Self::NotSupported(no_replica_identity(queue))
            }
            store::Error::KeyRefused(code) => {
                Self::key_refused(format!("queue `{queue}`: the idempotency key"), code.as_deref())
            }
            other => other.into(),
        }
    }

    /// Sorts what the store said of making, changing or dropping `queue`.
    pub(in crate::broker) fn of_changing(
        queue: &QueueName,
    ) -> impl Fn(store::Error) -> Self + use<'_> {
        move |error| match error {
            store::Error::Needed => Self::TablesNeeded(queue.to_string()),
            // No right that is missing would help.
            store::Error::Rejected(why) if why != Rejection::Policy => {
                Self::ChangeRefused { queue: queue.to_string(), why }
            }
            store::Error::Rejected(_) => {
                Self::Forbidden { queue: format!("queue `{queue}`"), source: error }
            }
            other => Self::on(queue)(other),
        }
    }

    /// Sorts what the store said of messages that were to be stored in `queue`.
    pub(in crate::broker) fn of_sending(
        queue: &QueueName,
    ) -> impl Fn(store::Error) -> Self + use<'_> {
        move |error| match error {
            store::Error::Rejected(rejection) => Self::rejected(queue.as_str(), &rejection),
            store::Error::Locked => {
                Self::Locked(format!("queue `{queue}`, or something that this message needs"))
            }
            other => Self::on(queue)(other),
        }
    }

    /// A message that the table of `queue` did not take.
    pub(in crate::broker) fn rejected(queue: &str, rejection: &Rejection) -> Self {
        match rejection {
            Rejection::Differs(what) => Self::TableDiffers {
                queue: queue.to_owned(),
                what: what.clone().unwrap_or_else(|| "a column".into()),
                source: None,
            },
            _ => Self::rejected_by(&format!("queue `{queue}`"), rejection),
        }
    }

    /// A dead letter of `queue` that the table of the queue that it came from did not take.
    pub(in crate::broker) fn rejected_by_origin(queue: &QueueName, rejection: &Rejection) -> Self {
        Self::rejected_by(&format!("the queue that a message of `{queue}` came from"), rejection)
    }

    /// A message that a table did not take; `queue` says of what.
    fn rejected_by(queue: &str, rejection: &Rejection) -> Self {
        let constraint = |name: &Option<Arc<str>>| {
            name.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default()
        };
        match rejection {
            Rejection::Policy => Self::SendForbidden(queue.to_owned()),
            Rejection::Conflict(name) => Self::MessageConflict(format!(
                "the table of {queue} has such a message already: its unique constraint{} refuses \
                 another one; nothing was stored",
                constraint(name)
            )),
            // That a column must not be null has no name.
            Rejection::Constraint(name) => Self::refused(format!(
                "{} constraint{} of the table of {queue} refuses the message; nothing was stored",
                if name.is_some() { "the" } else { "a" },
                constraint(name)
            )),
            // PostgreSQL says so of what rules make of a statement.
            Rejection::Trigger(code) if **code == *"0A000" => Self::refused(format!(
                "a rule of the table of {queue} does something else than storing the message; nothing was stored"
            )),
            Rejection::Trigger(_) => Self::refused(format!(
                "a trigger or a policy of the table of {queue}, or what a column of it is computed by, refuses the \
                 message; nothing was stored"
            )),
            Rejection::NotStored => Self::refused(format!(
                "a trigger of the table of {queue} dropped the message; nothing was stored"
            )),
            Rejection::Unstorable(_) => Self::refused(rejection.to_string()),
            Rejection::Failed(_) => Self::TriggerFailed(queue.to_owned()),
            Rejection::Differs(_) => Self::QueueConflict(format!(
                "the table of {queue} is not as PGMQ makes it: a column is missing, or has another type; nothing was \
                 stored"
            )),
            Rejection::Exhausted => Self::IdsExhausted {
                queue: queue.to_owned(),
                source: store::Error::Rejected(rejection.clone()),
            },
            Rejection::KeptBySource => {
                Self::SourceKept(format!("what a message for {queue} was to be taken from"))
            }
            Rejection::NoRight => Self::Forbidden {
                queue: queue.to_owned(),
                source: store::Error::Rejected(rejection.clone()),
            },
            Rejection::IdRefused(code) => Self::KeyRefused {
                what: format!("{queue}: the deduplication id"),
                why: why_refused("deduplication_ids", code.as_deref()),
            },
        }
    }

    pub(in crate::broker) fn message_not_found(queue: &QueueName, msg_id: i64) -> Self {
        Self::MessageNotFound { queue: queue.to_string(), msg_id }
    }

    /// A message that the archive has already.
    pub(in crate::broker) fn archive_conflict(queue: &str, msg_id: i64) -> Self {
        Self::MessageConflict(format!(
            "the archive of queue `{queue}` has a message {msg_id} already, or a unique constraint of another \
             table that a trigger fills refuses it; nothing was done to this one"
        ))
    }
}

impl Error {
    /// A message that the place where dead letters go has already.
    pub(in crate::broker) fn dead_letter_conflict(queue: &str, msg_id: i64) -> Self {
        Self::MessageConflict(format!(
            "where dead letters of queue `{queue}` go, a unique constraint refuses message {msg_id}, as there \
             is such a message already; nothing was done to this one"
        ))
    }

    /// A request that makes no sense: which part of it, and what would be right.
    pub(in crate::broker) fn invalid(
        part: impl Into<Option<Part>>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Invalid { part: part.into(), reason: reason.into() }
    }

    /// A name that no queue can have.
    pub(in crate::broker) fn invalid_name(queue: &QueueName, reason: impl fmt::Display) -> Self {
        Self::invalid(None, format!("queue `{queue}`: {reason}"))
    }

    /// The failure of a change of `queue` of which some steps are `done`.
    pub(in crate::broker) fn behind(self, queue: &QueueName, done: &[&str]) -> Self {
        // Where the queue is gone, so is what was done to it.
        if done.is_empty() || matches!(self, Self::QueueNotFound(_)) {
            return self;
        }
        Self::PartlyChanged {
            queue: queue.to_string(),
            done: done.join(", "),
            source: Box::new(self),
        }
    }

    /// The failure of a look at `queue` behind a change, of which these steps were to be `done` and are.
    pub(in crate::broker) fn of_look_behind(self, queue: &QueueName, done: &[&str]) -> Self {
        match self.behind(queue, done) {
            Self::PartlyChanged { queue, done, source } => {
                Self::ChangedUnseen { queue, done, source }
            }
            other => other,
        }
    }

    fn key_refused(what: String, code: Option<&str>) -> Self {
        Self::KeyRefused { what, why: why_refused("idempotency_keys", code) }
    }

    fn refused(reason: String) -> Self {
        Self::MessageRejected { part: None, reason }
    }

    /// The failure of one message of several.
    pub(in crate::broker) fn in_message(self, index: usize) -> Self {
        Self::InMessage { index, source: Box::new(self) }
    }

    /// The failure of one operation of several.
    pub(in crate::broker) fn in_operation(self, operation: usize) -> Self {
        Self::InOperation { operation, source: Box::new(self) }
    }

    /// The failure alone, where there was one operation only.
    pub(in crate::broker) fn without_operation(self) -> Self {
        match self {
            Self::InOperation { source, .. } => *source,
            other => other,
        }
    }
}

/// What keeps a row from being written to a table of the gateway's own; nothing is said where it was dropped.
fn why_refused(table: &str, code: Option<&str>) -> String {
    match code {
        Some(code @ "42501") => format!(
            "the gateway's database role lacks a right on pgmq_gateway.{table} (`migrate --grant-to` gives it), or a \
             policy or a trigger there refuses it (SQLSTATE {code})"
        ),
        code => format!(
            "a trigger, a rule or a constraint of pgmq_gateway.{table} refuses it{}",
            code.map(|code| format!(" (SQLSTATE {code})")).unwrap_or_default()
        ),
    }
}

/// What is said where a publication has the table of `queue`, which does not say what its rows go by.
fn no_replica_identity(queue: &QueueName) -> String {
    let table = queue.as_str().to_lowercase();
    format!(
        "a publication in the database sends deletes and updates of a table of queue `{queue}` that has no \
         replica identity for that; nothing was done. Have an administrator run: \
         ALTER TABLE pgmq.\"q_{table}\" REPLICA IDENTITY FULL; (DEFAULT does where it has a primary key) and the \
         same for pgmq.\"a_{table}\" where messages of the archive are moved or deleted"
    )
}

impl From<store::Error> for Error {
    /// Sorts what the store said where no queue is known.
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Parameter(reason) => {
                Self::invalid(None, format!("PostgreSQL cannot read a parameter of the request: {reason}"))
            }
            store::Error::Locked => Self::Locked("what this is about".to_owned()),
            store::Error::NoReplicaIdentity { .. } => Self::NotSupported(
                "a publication in the database sends deletes and updates of tables that have no replica \
                 identity for that; nothing was done. Have an administrator run: \
                 ALTER TABLE pgmq.meta REPLICA IDENTITY FULL; \
                 ALTER TABLE pgmq.topic_bindings REPLICA IDENTITY FULL; and the same for the queue's own \
                 tables where they have no primary key"
                    .to_owned(),
            ),
            store::Error::Overloaded => {
                Self::Overloaded("every database connection was in use; try again in a moment")
            }
            store::Error::TooManyPending => Self::Overloaded(
                "as much stands in line for this as this gateway takes, of all or with this key; nothing was done; try \
                 again in a moment",
            ),
            store::Error::TooManyWaiters => Self::Overloaded(
                "as many clients wait as this gateway takes, of all or with this key, or receive in as many \
                 different ways; try again in a moment",
            ),
            store::Error::Unavailable(_) => Self::DatabaseUnavailable(error),
            store::Error::Timeout | store::Error::TimeoutAt { .. } => Self::TookTooLong(error),
            store::Error::Deadlock(_) => Self::Undone(error),
            store::Error::OutcomeUnknown(_) => Self::OutcomeUnknown(error),
            store::Error::NotSupported(what) => {
                Self::NotSupported(format!("{what}: upgrade PGMQ in this database to have this"))
            }
            store::Error::QueueHidden(queue) => Self::QueueHidden(queue),
            store::Error::RoutingKey(reason) => Self::invalid(Part::RoutingKey, format!(": {reason}")),
            store::Error::Pattern(reason) => Self::invalid(Part::Pattern, format!(": {reason}")),
            store::Error::Refused { .. } => refusals::refused(error),
            store::Error::Rejected(rejection @ Rejection::Unstorable(_)) => {
                Self::refused(rejection.to_string())
            }
            store::Error::SequenceBehind => {
                Self::SequenceBehind { queue: "one of these queues".to_owned(), source: error }
            }
            store::Error::Exhausted(_) => {
                Self::IdsExhausted { queue: "one of these queues".to_owned(), source: error }
            }
            store::Error::Forbidden(_)
            | store::Error::NotDone(_)
            | store::Error::Rejected(Rejection::Policy) => {
                Self::Forbidden { queue: "one of these queues".to_owned(), source: error }
            }
            store::Error::KeyRefused(code) => {
                Self::key_refused("the idempotency key".to_owned(), code.as_deref())
            }
            store::Error::QueueNotFound
            | store::Error::NoArchive
            | store::Error::TableDiffers { .. }
            | store::Error::Rejected(_)
            | store::Error::Needed
            | store::Error::MissingRelation(_)
            | store::Error::Unreadable
            | store::Error::Unexpected(_) => Self::Internal(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_too_long_is_no_database_that_is_away() {
        let queue = QueueName::parse("q").expect("valid");
        let slow = Error::on(&queue)(store::Error::Timeout);
        assert!(slow.to_string().contains("`database.statement_timeout_ms`"), "{slow}");
        assert!(!slow.to_string().contains("unavailable"), "{slow}");
    }

    #[test]
    fn what_stopped_a_change_does_not_say_that_nothing_was_done() {
        let queue = QueueName::parse("q").expect("valid");
        let why = Rejection::Trigger("P0001".into());
        for error in [
            store::Error::Locked,
            store::Error::Needed,
            store::Error::NotDone("a table".into()),
            store::Error::Rejected(why),
            store::Error::NoReplicaIdentity { of_queue: true },
            store::Error::NoReplicaIdentity { of_queue: false },
            store::Error::Timeout,
        ] {
            let error = Error::of_changing(&queue)(error);
            let alone = error.to_string();
            assert!(alone.contains("; nothing was "), "{alone}");
            let behind = error.behind(&queue, &["its settings are changed"]).to_string();
            assert!(!behind.contains("nothing was"), "{behind}");
            assert!(behind.starts_with("queue `q`: its settings are changed, and"), "{behind}");
        }
        let error = Error::of_changing(&queue)(store::Error::Locked).behind(&queue, &[]);
        assert!(matches!(error, Error::Locked(_)));
        let unknown = Error::from(store::Error::OutcomeUnknown(None));
        let unknown = unknown.behind(&queue, &["its settings are changed"]).to_string();
        assert!(unknown.contains("whether the rest is done is not known"), "{unknown}");
    }

    #[test]
    fn a_look_that_fails_behind_a_change_does_not_say_that_any_of_it_is_not_done() {
        let queue = QueueName::parse("q").expect("valid");
        let look = || Error::of_changing(&queue)(store::Error::Locked);
        let said = look().of_look_behind(&queue, &["its settings are changed"]).to_string();
        assert!(said.starts_with("queue `q`: its settings are changed, as was asked;"), "{said}");
        assert!(!said.contains("the rest") && !said.contains("nothing was"), "{said}");
        assert!(matches!(look().of_look_behind(&queue, &[]), Error::Locked(_)));
    }
}
