//! Parts of what many have together.

use serde::{Deserialize, Serialize};

/// A part of something, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(pub u32);

impl Share {
    /// This part of so many, and at least one.
    pub fn of(self, all: usize) -> usize {
        let percent = usize::try_from(self.0).unwrap_or(usize::MAX);
        (all / 100 * percent + all % 100 * percent / 100).max(1)
    }
}
