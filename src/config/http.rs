use std::net::Ipv6Addr;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Invalid, environment::list_in_text};

/// `[http]`: which names and which web pages the gateway answers to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Names that a request's `Host` may have; `*` is any. Where none is given: those of this machine
    /// if only it is served, else any.
    #[serde(deserialize_with = "list")]
    pub allowed_hosts: Vec<String>,
    /// The path under which a proxy serves the gateway, and which it takes off, such as `/queue-api`;
    /// empty at the root. `X-Forwarded-Prefix` wins over it.
    pub path_prefix: String,
    /// Origins whose web pages may use the gateway, such as `https://app.example`; `*` is any.
    #[serde(deserialize_with = "list")]
    pub cors_origins: Vec<String>,
}

impl Http {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if let Some(host) = self.allowed_hosts.iter().find(|host| !is_host(host)) {
            let allowed = format!(
                "`{host}` is not the name of a host, such as queue.example or [::1], without a port"
            );
            return Err(Invalid { key: "http.allowed_hosts", allowed });
        }
        if !is_prefix(&self.path_prefix) {
            let allowed = format!("`{}` is not a path, such as /queue-api", self.path_prefix);
            return Err(Invalid { key: "http.path_prefix", allowed });
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

/// Whether a name can stand in `Host`, or is `*`.
fn is_host(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    name == "*" || (!name.is_empty() && name.bytes().all(fits))
}

/// Whether a path can stand before one of ours.
fn is_prefix(path: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%+@:".contains(&byte);
    let is_path = path.starts_with('/') && !path.contains("//") && !path.ends_with('/');
    path.is_empty() || (is_path && path.bytes().all(fits))
}

/// A list, or a text with commas in it or a list, as environment variables have it.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Visitor;

    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list, or a text with commas in it")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<String>, E> {
            // What begins with a bracket may also be an address of IPv6.
            if let Some(list) = list_in_text(text) {
                let names = list.into_iter().map(config::Value::into_string);
                return names.collect::<Result<_, _>>().map_err(E::custom);
            }
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
