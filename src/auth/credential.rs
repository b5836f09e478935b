//! What a client shows: the text behind `Authorization`, or a log-in.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::session::Session;

/// The most bytes of a credential; a token with many claims has a few thousand.
const MAX_BYTES: usize = 16 << 10;

/// A key or a token, as it came, or the log-in of somebody who showed one.
#[derive(Clone)]
pub struct Credential(Proof);

/// What it is.
#[derive(Clone)]
pub(super) enum Proof {
    /// A key or a token.
    Text(String),
    /// What was given out for one.
    Session(Arc<Session>),
}

impl Credential {
    /// Reads a header: `Bearer <key>`, or `Basic` with the key as password. `None` is for what is
    /// neither, which lets nobody in.
    pub fn parse(header: &str) -> Option<Self> {
        if header.len() > MAX_BYTES {
            return None;
        }
        let (scheme, rest) = header.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Self::text(rest);
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (_, password) = pair.split_once(':')?;
        Self::text(password)
    }

    /// A key that was found out in another way than from this header.
    pub(super) fn of_key(key: String) -> Self {
        Self(Proof::Text(key))
    }

    /// Of somebody who logged in.
    pub(super) fn of_session(session: Session) -> Self {
        Self(Proof::Session(Arc::new(session)))
    }

    /// What was shown.
    pub(super) fn proof(&self) -> &Proof {
        &self.0
    }

    fn text(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(Proof::Text(text.to_owned())))
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(header: &str) -> Option<String> {
        match Credential::parse(header)?.0 {
            Proof::Text(text) => Some(text),
            Proof::Session(_) => None,
        }
    }

    #[test]
    fn both_schemes_carry_a_key() {
        for (header, key) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic dXNlcjphYmM=", Some("abc")),
            ("BASIC OmE6Yg==", Some("a:b")),
            ("Basic dXNlcg==", None),
            ("Basic dXNlcjo=", None),
            ("Basic !", None),
            ("Bearer ", None),
            ("Bearer", None),
            ("Digest abc", None),
            ("abc", None),
        ] {
            assert_eq!(read(header).as_deref(), key, "{header}");
        }
        assert!(read(&format!("Bearer {}", "x".repeat(MAX_BYTES))).is_none());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(header in "(Bearer |Basic )?.{0,60}") {
            let _ = read(&header);
        }

        #[test]
        fn any_password_arrives(user in "[^:]{0,10}", password in ".{1,30}") {
            let header = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            prop_assert_eq!(read(&header), Some(password));
        }
    }
}
