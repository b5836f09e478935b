//! The rights that a permit's type names.

use crate::domain::Right;

/// What a permit is for.
pub(crate) trait RequiredRight {
    /// The right that it takes; any will do where none is named.
    const RIGHT: Option<Right>;
}

/// To store messages.
pub(crate) struct Send;
/// To take messages, look at them, or say what became of them.
pub(crate) struct Receive;
/// To make, change, empty, drop or bind a queue, or take messages back.
pub(crate) struct Manage;
/// To see that there is a queue, and how full it is: any right will do.
pub(crate) struct Any;

impl RequiredRight for Send {
    const RIGHT: Option<Right> = Some(Right::Send);
}

impl RequiredRight for Receive {
    const RIGHT: Option<Right> = Some(Right::Receive);
}

impl RequiredRight for Manage {
    const RIGHT: Option<Right> = Some(Right::Manage);
}

impl RequiredRight for Any {
    const RIGHT: Option<Right> = None;
}
