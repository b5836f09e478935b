use serde::{Deserialize, Serialize};

use super::{Invalid, Secret};

/// `[receipts]`: what stands for one delivery of a message.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Receipts {
    /// The key with which they are signed, the same for all gateways on a database; one that is
    /// kept in the database where none is set.
    pub signing_key: Option<Secret>,
}

impl Receipts {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let length = self.signing_key.as_ref().map_or(32, |key| key.expose().len());
        if (16..=1_024).contains(&length) {
            return Ok(());
        }
        let allowed = format!("a key has 16 to 1024 characters, not {length}");
        Err(Invalid { key: "receipts.signing_key", allowed })
    }
}
