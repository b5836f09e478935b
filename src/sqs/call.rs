//! What the actions have in common.

use serde_json::{Map, Value};

use crate::http::GatedBroker;

use super::{
    error::{Kind, Result, SqsError},
    names::{Place, SqsName},
    shapes::required,
};

/// What an action answers; nothing where the service model has no output for it.
pub(super) type Output = Option<Map<String, Value>>;

/// A request, apart from who makes it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) gated: GatedBroker,
    /// Where queues seem to be to this client.
    pub(super) place: Place,
    /// The header `X-Amzn-Trace-Id`.
    pub(super) trace: Option<String>,
    /// The access key with which the request is signed, if that was looked at.
    pub(super) sender: Option<String>,
    /// Whether the groups of a standard queue come to take turns.
    pub(super) fair_queues: bool,
}

impl Call {
    /// Which of the account's twelve digits and the sender's access key is shown as the sender.
    pub(super) fn sender_id<'a>(&'a self, sent: Option<&'a str>) -> &'a str {
        sent.unwrap_or(&self.place.account)
    }
}

/// The queue of a URL.
pub(super) fn queue_of(url: Option<&String>) -> Result<SqsName> {
    SqsName::of_url(required(url, "QueueUrl")?)
}

/// Members of an output that are there.
pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A number within bounds, or the default where none is given.
pub(super) fn bounded(
    value: Option<i64>,
    parameter: &str,
    bounds: std::ops::RangeInclusive<i64>,
    default: i64,
    reason: &str,
) -> Result<i64> {
    match value {
        None => Ok(default),
        Some(value) if bounds.contains(&value) => Ok(value),
        Some(value) => Err(SqsError::value(&value.to_string(), parameter, reason)),
    }
}

/// What should not have happened.
pub(super) fn internal(detail: &str) -> SqsError {
    SqsError::new(Kind::InternalFailure, detail)
}
