//! What became of messages that were settled.

use serde::Serialize;
use utoipa::ToSchema;

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
