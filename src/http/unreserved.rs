//! How a name is written in a URL.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// What stands there as it is: the unreserved characters of RFC 3986.
pub(crate) const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
