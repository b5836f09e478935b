use serde::{Deserialize, Serialize};

use super::{Invalid, check_range};

/// `[engine]`: how requests share statements.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// How messages are read.
    pub read: ReadMode,
    /// Rows in one statement, of requests that came together.
    pub max_batch_rows: usize,
    /// Bytes in one statement, of requests that came together.
    pub max_batch_bytes: usize,
    /// Statements of one kind that a queue has under way at the same time, without those that take long.
    pub statements_per_lane: usize,
    /// Rows that stand in line for a queue, by kind; more are refused.
    pub max_pending_rows: usize,
    /// Bytes that stand in line for a queue, by kind; more are refused.
    pub max_pending_bytes: usize,
}

/// How messages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum ReadMode {
    /// By the index on vt: the longest visible first.
    Indexed,
    /// By `pgmq.read`: in order of msg_id.
    Pgmq,
}

impl TryFrom<String> for ReadMode {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match &*name {
            "indexed" => Ok(Self::Indexed),
            "pgmq" => Ok(Self::Pgmq),
            _ => Err(format!("`{name}` is neither indexed nor pgmq")),
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            read: ReadMode::Indexed,
            max_batch_rows: 500,
            max_batch_bytes: 4 << 20,
            statements_per_lane: 2,
            max_pending_rows: 20_000,
            max_pending_bytes: 64 << 20,
        }
    }
}

impl Engine {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("engine.max_batch_rows", self.max_batch_rows, 1, 10_000)?;
        check_range("engine.max_batch_bytes", self.max_batch_bytes, 1_024, 256 << 20)?;
        check_range("engine.statements_per_lane", self.statements_per_lane, 1, 100)?;
        check_range("engine.max_pending_rows", self.max_pending_rows, 1, 1_000_000)?;
        check_range("engine.max_pending_bytes", self.max_pending_bytes, 1_024, 4 << 30)
    }
}
