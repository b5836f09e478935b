//! The functions, and which of them a call is for.

use axum::http::StatusCode;

use crate::domain::spelling;

use super::failure::Failure;

/// The schema in which they stand.
pub(super) const SCHEMA: &str = "pgmq_public";

/// A function of `pgmq_public`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Send,
    SendBatch,
    Read,
    Pop,
    Archive,
    Delete,
}

impl Function {
    const ALL: [Self; 6] =
        [Self::Send, Self::SendBatch, Self::Read, Self::Pop, Self::Archive, Self::Delete];

    /// The one of this name that takes arguments of these names, which are sorted.
    pub(super) fn find(name: &str, given: &[&str]) -> Result<Self, Failure> {
        let Some(found) = Self::ALL.into_iter().find(|function| function.name() == name) else {
            return Err(not_found(name, given, nearest(name).map(|near| near.name().to_owned())));
        };
        let (known, optional) = (found.parameters(), found.optional());
        let is_given = |known: &&str| optional.contains(known) || given.contains(known);
        if !known.iter().all(is_given) || !given.iter().all(|name| known.contains(name)) {
            let right = format!("{name}({})", found.parameters().join(", "));
            return Err(not_found(name, given, Some(right)));
        }
        Ok(found)
    }

    /// What it is called.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::SendBatch => "send_batch",
            Self::Read => "read",
            Self::Pop => "pop",
            Self::Archive => "archive",
            Self::Delete => "delete",
        }
    }

    /// Its parameters, sorted.
    const fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Send => &["message", "queue_name", "sleep_seconds"],
            Self::SendBatch => &["messages", "queue_name", "sleep_seconds"],
            Self::Read => &["n", "queue_name", "sleep_seconds"],
            Self::Pop => &["queue_name"],
            Self::Archive | Self::Delete => &["message_id", "queue_name"],
        }
    }

    /// Those that have a default.
    const fn optional(self) -> &'static [&'static str] {
        match self {
            Self::Send | Self::SendBatch => &["sleep_seconds"],
            Self::Read | Self::Pop | Self::Archive | Self::Delete => &[],
        }
    }

    /// The statement that a read-only transaction refuses.
    pub(super) const fn statement(self) -> &'static str {
        match self {
            Self::Send | Self::SendBatch | Self::Archive => "INSERT",
            Self::Read => "UPDATE",
            Self::Pop | Self::Delete => "DELETE",
        }
    }
}

fn not_found(name: &str, given: &[&str], right: Option<String>) -> Failure {
    let list = given.join(", ");
    let (called, searched) = match given.len() {
        0 => (" without parameters".to_owned(), " without parameters".to_owned()),
        1 => (format!("({list})"), format!(" with parameter {list}")),
        _ => (format!("({list})"), format!(" with parameters {list}")),
    };
    let message =
        format!("Could not find the function {SCHEMA}.{name}{called} in the schema cache");
    let failure = Failure::new(StatusCode::NOT_FOUND, "PGRST202", message).details(format!(
        "Searched for the function {SCHEMA}.{name}{searched} or with a single unnamed json/jsonb \
         parameter, but no matches were found in the schema cache."
    ));
    match right {
        Some(right) => {
            failure.hint(format!("Perhaps you meant to call the function {SCHEMA}.{right}"))
        }
        None => failure,
    }
}

/// The function whose name is most like this one, if one is.
fn nearest(name: &str) -> Option<Function> {
    if name.len() > 40 {
        return None;
    }
    let distance = |function: &Function| spelling::distance(name, function.name());
    let near = Function::ALL.into_iter().min_by_key(distance)?;
    (distance(&near) <= 1 + near.name().len() / 3).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_by_its_name_and_arguments() {
        let found = |name: &str, given: &[&str]| Function::find(name, given).ok();
        assert_eq!(found("send", &["message", "queue_name"]), Some(Function::Send));
        let all = ["message", "queue_name", "sleep_seconds"];
        assert_eq!(found("send", &all), Some(Function::Send));
        assert_eq!(found("read", &["n", "queue_name", "sleep_seconds"]), Some(Function::Read));
        assert_eq!(found("read", &["n", "queue_name"]), None);
        assert_eq!(found("pop", &["n", "queue_name"]), None);
        assert_eq!(found("reed", &["queue_name"]), None);
    }

    #[test]
    fn a_name_that_is_almost_right_is_recognised() {
        assert_eq!(nearest("sendd"), Some(Function::Send));
        assert_eq!(nearest("send_bach"), Some(Function::SendBatch));
        assert_eq!(nearest("archiv"), Some(Function::Archive));
        assert_eq!(nearest("something"), None);
    }
}
