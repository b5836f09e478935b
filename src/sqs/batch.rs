//! What all batches have in common.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use tracing::warn;

use super::error::{Kind, Result, SqsError};

/// The most entries.
const MAX_ENTRIES: usize = 10;
/// Characters of an entry's id.
const MAX_ID: usize = 80;

/// Refuses a batch that is empty, too long, or whose entries cannot be told apart; `entry` is their name.
pub(super) fn check<'a>(entry: &str, ids: impl Iterator<Item = Option<&'a str>>) -> Result<()> {
    let ids: Vec<Option<&str>> = ids.collect();
    if ids.is_empty() {
        let message = format!("There should be at least one {entry} in the request.");
        return Err(SqsError::new(Kind::EmptyBatchRequest, message));
    }
    if ids.len() > MAX_ENTRIES {
        let message = format!(
            "Maximum number of entries per request are {MAX_ENTRIES}. You have sent {}.",
            ids.len()
        );
        return Err(SqsError::new(Kind::TooManyEntriesInBatchRequest, message));
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_id = |id: &&str| (1..=MAX_ID).contains(&id.len()) && id.bytes().all(fits);
    if !ids.iter().all(|id| id.is_some_and(|id| is_id(&id))) {
        return Err(SqsError::new(
            Kind::InvalidBatchEntryId,
            "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at \
             most 80 letters long.",
        ));
    }
    let mut seen = HashSet::new();
    match ids.into_iter().flatten().find(|id| !seen.insert(*id)) {
        Some(id) => {
            Err(SqsError::new(Kind::BatchEntryIdsNotDistinct, format!("Id {id} repeated.")))
        }
        None => Ok(()),
    }
}

/// What became of the entries. Neither list is there where it is empty.
#[derive(Debug, Default)]
pub(super) struct Batch {
    successful: Vec<Value>,
    failed: Vec<Value>,
}

impl Batch {
    /// This entry is done, and `output` is what there is to say of it.
    pub(super) fn done(&mut self, id: &str, mut output: Map<String, Value>) {
        output.insert("Id".to_owned(), json!(id));
        self.successful.push(Value::Object(output));
    }

    /// This entry failed.
    pub(super) fn failed(&mut self, id: &str, error: &SqsError) {
        let (_, code, _) = error.kind.parts();
        if !error.kind.is_senders_fault() {
            // The answer is one of 200: nothing else says so.
            warn!(code, cause = ?error.cause, "an entry of a batch failed");
        }
        self.failed.push(json!({
            "Id": id, "Code": code, "Message": error.message,
            "SenderFault": error.kind.is_senders_fault(),
        }));
    }

    pub(super) fn output(self) -> Map<String, Value> {
        let mut output = Map::new();
        for (name, list) in [("Successful", self.successful), ("Failed", self.failed)] {
            if !list.is_empty() {
                output.insert(name.to_owned(), Value::Array(list));
            }
        }
        output
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_refused_in_the_words_of_the_service() {
        let refusal = |ids: &[&str]| {
            let error = check("X", ids.iter().map(|id| Some(*id))).expect_err("must be refused");
            (error.kind, error.message)
        };
        assert_eq!(refusal(&[]).0, Kind::EmptyBatchRequest);
        let many: Vec<String> = (0..20).map(|id| id.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (kind, message) = refusal(&many);
        assert_eq!(kind, Kind::TooManyEntriesInBatchRequest);
        assert_eq!(message, "Maximum number of entries per request are 10. You have sent 20.");
        for wrong in ["", "invalid:id", &"testLongId".repeat(10)] {
            assert_eq!(refusal(&[wrong]).0, Kind::InvalidBatchEntryId, "{wrong}");
        }
        assert_eq!(refusal(&["a", "b", "a"]).1, "Id a repeated.");
        assert!(check("X", ["a", "b"].into_iter().map(Some)).is_ok());
    }
}
