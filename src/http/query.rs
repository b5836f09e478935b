//! What stands behind the `?` of a URL.

use percent_encoding::percent_decode_str;

use super::rejection::Rejection;

/// Refuses what is no UTF-8 once it is decoded: whoever reads it later would find other characters there.
pub(crate) fn check_query(query: &str) -> Result<(), Rejection> {
    match percent_decode_str(query).decode_utf8() {
        Ok(_) => Ok(()),
        Err(_) => Err(Rejection::Malformed(
            "the query of the URL is no UTF-8 once its %-escapes are decoded".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_utf8_is_refused() {
        for query in ["", "a=b&c", "a=caf%C3%A9", "a=%", "a=%2", "a=%zz", "a=é"] {
            assert!(check_query(query).is_ok(), "{query}");
        }
        for query in ["a=caf%E9", "%FF", "a=1&b=%C3", "a=%ED%A0%80", "a=%C3=%A9"] {
            assert!(check_query(query).is_err(), "{query}");
        }
    }
}
