use serde::{Deserialize, Serialize};

use crate::domain::{MAX_BATCH, MAX_JSON_DEPTH, MAX_READABLE_BYTES, Share, StorableLimits};

use super::{Invalid, check_range};

/// `[limits]`: what a client may ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes in one message, headers included and numbers written out in full, as PostgreSQL does.
    pub max_message_bytes: u64,
    /// Levels of arrays and objects in one message.
    pub max_json_depth: u32,
    /// Bytes in the body of a request, and in its messages once their numbers are written out in full.
    pub max_body_bytes: u64,
    /// Bytes in an answer that carries messages; one message always fits.
    pub max_answer_bytes: u64,
    /// Bytes of large bodies and answers at the same time.
    pub max_in_flight_bytes: u64,
    /// Messages in one batch.
    pub max_batch_messages: usize,
    /// Messages that one publication stores, each counted as often as there are queues for it.
    pub max_publish_messages: usize,
    /// Bytes that one publication stores, counted in the same way.
    pub max_publish_bytes: u64,
    /// Patterns that a queue may be bound to.
    pub max_bindings_per_queue: usize,
    /// Requests that are served at the same time; clients that wait are not counted, nor those whose body has
    /// not come yet.
    pub max_requests: usize,
    /// Requests whose body has not come yet.
    pub max_arriving_requests: usize,
    /// What one key may have of whatever all of them share, in percent.
    pub max_share_per_key_percent: Share,
    /// Requests in a second, of all clients together.
    pub requests_per_second: Option<u32>,
    /// Requests in a second of a key that has no limit of its own.
    pub requests_per_second_per_key: Option<u32>,
    /// Connections of clients that are open at the same time.
    pub max_connections: u32,
    /// Bytes in the headers of a request, its first line included.
    pub max_header_bytes: u32,
    /// Headers of a request.
    pub max_headers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 1 << 20,
            max_json_depth: MAX_JSON_DEPTH,
            max_body_bytes: 16 << 20,
            max_answer_bytes: 16 << 20,
            max_in_flight_bytes: 256 << 20,
            max_batch_messages: MAX_BATCH,
            max_publish_messages: 10_000,
            max_publish_bytes: 64 << 20,
            max_bindings_per_queue: 100,
            max_requests: 4_096,
            max_arriving_requests: 4_096,
            max_share_per_key_percent: Share(50),
            requests_per_second: None,
            requests_per_second_per_key: None,
            max_connections: 16_384,
            max_header_bytes: 32 << 10,
            max_headers: 100,
        }
    }
}

impl Limits {
    /// What a message's JSON is held to.
    pub(crate) fn storable(&self) -> StorableLimits {
        StorableLimits { expanded: MAX_READABLE_BYTES, depth: self.max_json_depth }
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("limits.max_message_bytes", self.max_message_bytes, 1_024, MAX_READABLE_BYTES)?;
        check_range("limits.max_json_depth", self.max_json_depth, 32, MAX_JSON_DEPTH)?;
        check_range(
            "limits.max_body_bytes",
            self.max_body_bytes,
            self.max_message_bytes,
            256 << 20,
        )?;
        check_range("limits.max_answer_bytes", self.max_answer_bytes, 1_024, 1 << 30)?;
        let least = self.max_body_bytes.max(self.max_answer_bytes);
        check_range("limits.max_in_flight_bytes", self.max_in_flight_bytes, least, 1 << 40)?;
        check_range("limits.max_batch_messages", self.max_batch_messages, 1, MAX_BATCH)?;
        check_range("limits.max_publish_messages", self.max_publish_messages, 1, 1_000_000)?;
        check_range("limits.max_publish_bytes", self.max_publish_bytes, 1_024, 1 << 40)?;
        check_range("limits.max_bindings_per_queue", self.max_bindings_per_queue, 1, 1_000_000)?;
        check_range("limits.max_requests", self.max_requests, 1, 1_000_000)?;
        check_range("limits.max_arriving_requests", self.max_arriving_requests, 1, 1_000_000)?;
        check_range("limits.max_share_per_key_percent", self.max_share_per_key_percent.0, 1, 100)?;
        let rate = self.requests_per_second.unwrap_or(1);
        check_range("limits.requests_per_second", rate, 1, 10_000_000)?;
        let rate = self.requests_per_second_per_key.unwrap_or(1);
        check_range("limits.requests_per_second_per_key", rate, 1, 10_000_000)?;
        check_range("limits.max_connections", self.max_connections, 1, 1_000_000)?;
        check_range("limits.max_header_bytes", self.max_header_bytes, 8_192, 1 << 20)?;
        check_range("limits.max_headers", self.max_headers, 10, 1_000)
    }
}
