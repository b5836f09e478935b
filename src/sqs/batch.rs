//! What all batches have in common.

use std::{collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::domain::JsonObject;

use super::error::{Kind, Result, SqsError};

/// The most entries.
const MAX_ENTRIES: usize = 10;
/// Characters of an entry's id.
const MAX_ID: usize = 80;

/// The entries of a batch, each an object: as many as it may have. Those behind them are counted alone, as who
/// sent them is told how many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries<T> {
    first: Vec<T>,
    count: usize,
}

impl<T> Entries<T> {
    /// The entries, unless they are none, too many, or cannot be told apart by their ids; `entry` is their name.
    pub(super) fn checked(self, entry: &str, id: fn(&T) -> Option<&str>) -> Result<Vec<T>> {
        check(entry, self.count, self.first.iter().map(id))?;
        Ok(self.first)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesReader(PhantomData))
    }
}

struct EntriesReader<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesReader<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(
        self,
        mut list: A,
    ) -> std::result::Result<Entries<T>, A::Error> {
        let mut first = Vec::new();
        while first.len() < MAX_ENTRIES {
            match list.next_element::<JsonObject<T>>()? {
                Some(entry) => first.push(entry.0),
                None => return Ok(Entries { count: first.len(), first }),
            }
        }
        let mut count = first.len();
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Entries { first, count })
    }
}

/// Refuses a batch that is empty, too long, or whose entries cannot be told apart.
fn check<'a>(entry: &str, count: usize, ids: impl Iterator<Item = Option<&'a str>>) -> Result<()> {
    if count == 0 {
        let message = format!("There should be at least one {entry} in the request.");
        return Err(SqsError::new(Kind::EmptyBatchRequest, message));
    }
    if count > MAX_ENTRIES {
        let message = format!(
            "Maximum number of entries per request are {MAX_ENTRIES}. You have sent {count}."
        );
        return Err(SqsError::new(Kind::TooManyEntriesInBatchRequest, message));
    }
    let ids: Vec<Option<&str>> = ids.collect();
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
    use std::collections::BTreeMap;

    use super::*;

    fn read(json: &str) -> Entries<BTreeMap<String, String>> {
        serde_json::from_str(json).expect("a list")
    }

    fn refusal(ids: &[&str]) -> (Kind, String) {
        let entries: Vec<Value> = ids.iter().map(|id| json!({"Id": id})).collect();
        let entries = read(&json!(entries).to_string());
        let error = entries.checked("X", |entry| entry.get("Id").map(String::as_str));
        let error = error.expect_err("must be refused");
        (error.kind, error.message)
    }

    #[test]
    fn batches_are_refused_in_the_words_of_the_service() {
        assert_eq!(refusal(&[]).0, Kind::EmptyBatchRequest);
        let (kind, message) = refusal(&["a"; 20]);
        assert_eq!(kind, Kind::TooManyEntriesInBatchRequest);
        assert_eq!(message, "Maximum number of entries per request are 10. You have sent 20.");
        for wrong in ["", "invalid:id", &"testLongId".repeat(10)] {
            assert_eq!(refusal(&[wrong]).0, Kind::InvalidBatchEntryId, "{wrong}");
        }
        assert_eq!(refusal(&["a", "b", "a"]).1, "Id a repeated.");
        assert!(check("X", 2, ["a", "b"].into_iter().map(Some)).is_ok());
    }

    #[test]
    fn entries_that_no_batch_may_have_are_counted_alone() {
        let entries = read(&format!("[{}{{}}]", "{},".repeat(100_000)));
        assert_eq!((entries.first.len(), entries.count), (MAX_ENTRIES, 100_001));
        for wrong in ["[[]]", "[null]", "{}", "[{},"] {
            assert!(serde_json::from_str::<Entries<BTreeMap<String, String>>>(wrong).is_err());
        }
    }
}
