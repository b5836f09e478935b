use serde::{Deserialize, Serialize};

use super::{Invalid, within};

/// `[limits]`: what a client may ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes in one message, headers included.
    pub max_message_bytes: u64,
    /// Bytes in one message once its numbers are written out in full, as PostgreSQL does.
    pub max_expanded_message_bytes: u64,
    /// Bytes in the body of a request.
    pub max_body_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 1 << 20,
            max_expanded_message_bytes: 16 << 20,
            max_body_bytes: 16 << 20,
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        within("limits.max_message_bytes", self.max_message_bytes, 1_024, 64 << 20)?;
        within(
            "limits.max_expanded_message_bytes",
            self.max_expanded_message_bytes,
            self.max_message_bytes,
            128 << 20,
        )?;
        within("limits.max_body_bytes", self.max_body_bytes, self.max_message_bytes, 256 << 20)
    }
}
