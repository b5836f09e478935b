//! What became of messages that were settled.

use bytes::Bytes;
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::{
    broker::Settle,
    domain::Call,
    http::{MemoryPermit, Rejection, json_of_done, room_for_bytes},
};

use super::state::Api;

/// Bytes in which is said what became of a message, at most or nearly so.
const OUTCOME_BYTES: usize = 200;

/// The ids of messages by what became of them.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(example = json!({
    "deleted": [42], "archived": [43], "dead_lettered": [], "retried": [],
    "failed": [{"msg_id": 44, "code": "message_not_found", "detail":
                "queue `orders` has no message 44: it was never there, or is deleted or archived"}]
}))]
pub(super) struct Settled {
    /// Were deleted.
    pub(super) deleted: Vec<i64>,
    /// Were archived.
    pub(super) archived: Vec<i64>,
    /// Were moved to the dead letters.
    pub(super) dead_lettered: Vec<i64>,
    /// Will be delivered again.
    pub(super) retried: Vec<i64>,
    /// Could not be settled.
    pub(super) failed: Vec<Failed>,
}

/// An entry that could not be settled.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failed {
    /// The message; null if the receipt does not tell.
    #[schema(required)]
    pub(super) msg_id: Option<i64>,
    /// Why, for programs.
    #[schema(example = "message_not_found")]
    pub(super) code: &'static str,
    /// Why, for people.
    pub(super) detail: String,
}

/// What was settled, written down. It is less than what it was written from, and counts for as long as it is kept:
/// its client may wait for messages meanwhile.
#[derive(Clone, Debug)]
pub(super) struct WrittenSettled(Bytes);

impl WrittenSettled {
    pub(super) fn new(settled: &Settled, held: MemoryPermit) -> Result<Self, Rejection> {
        json_of_done(held, settled).map(Self)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// A body with this in it, for as long as which it counts.
    pub(super) fn within(&self, body: Vec<u8>) -> Bytes {
        Bytes::from_owner(Within { body, _settled: self.0.clone() })
    }
}

struct Within {
    body: Vec<u8>,
    _settled: Bytes,
}

impl AsRef<[u8]> for Within {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Serialize for WrittenSettled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json = serde_json::from_slice::<&RawValue>(&self.0).map_err(S::Error::custom)?;
        json.serialize(serializer)
    }
}

/// Room for what becomes of messages, before anything is done to them.
pub(super) fn room_for_outcome(
    api: &Api,
    call: &Call,
    settle: &Settle,
) -> Result<MemoryPermit, Rejection> {
    room_for_bytes(api, call, settle.entries.len() * OUTCOME_BYTES)
}
