use serde::{Deserialize, Deserializer, Serialize, de};

use super::Invalid;

/// `[http]`: which names and which web pages the gateway answers to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Names that a request's `Host` may have; `*` is any. Where none is given: those of this machine
    /// if only it is served, else any.
    #[serde(deserialize_with = "list")]
    pub allowed_hosts: Vec<String>,
    /// Origins whose web pages may use the gateway, such as `https://app.example`; `*` is any.
    #[serde(deserialize_with = "list")]
    pub cors_origins: Vec<String>,
}

impl Http {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        for host in &self.allowed_hosts {
            if host.is_empty() || host.contains(['/', ' ', '@']) {
                let allowed = format!("`{host}` is not the name of a host, such as queue.example");
                return Err(Invalid { key: "http.allowed_hosts", allowed });
            }
        }
        for origin in &self.cors_origins {
            let host = origin.split_once("://").map(|(_, host)| host);
            let whole = host.is_some_and(|host| !host.is_empty() && !host.contains('/'));
            if origin != "*" && !(whole && origin.is_ascii()) {
                let allowed = format!("`{origin}` is not an origin, such as https://app.example");
                return Err(Invalid { key: "http.cors_origins", allowed });
            }
        }
        Ok(())
    }
}

/// A list, or a text with commas in it, as environment variables have it.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list, or a text with commas in it")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            let parts = text.split(',').map(|part| part.trim().to_owned());
            Ok(parts.filter(|part| !part.is_empty()).collect())
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut parts = Vec::new();
            while let Some(part) = list.next_element()? {
                parts.push(part);
            }
            Ok(parts)
        }
    }

    deserializer.deserialize_any(Visitor)
}
