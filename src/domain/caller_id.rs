//! Whose share of something it is.

/// What stands for one caller, whatever credential they show. Nobody has one where no key is needed: there all
/// callers are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallerId(pub [u8; 32]);
