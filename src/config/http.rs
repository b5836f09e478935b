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
        if let Some(origin) = self.cors_origins.iter().find(|origin| origin_of(origin).is_none()) {
            let allowed = format!("`{origin}` is not an origin, such as https://app.example");
            return Err(Invalid { key: "http.cors_origins", allowed });
        }
        Ok(())
    }

    /// Origins whose web pages may use the gateway, as browsers write them.
    pub fn origins(&self) -> Vec<String> {
        self.cors_origins.iter().filter_map(|origin| origin_of(origin)).collect()
    }
}

/// Schemes of addresses from which no browser loads a page that can make requests.
const NO_PAGES: [&str; 4] = ["file", "ftp", "ws", "wss"];

/// An origin as a browser writes it in `Origin`, or `*`; nothing where none would.
fn origin_of(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let (scheme, authority) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let begins = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    if !begins || !scheme.bytes().all(fits) || NO_PAGES.contains(&&*scheme) {
        return None;
    }
    let (host, port) = split_port(authority)?;
    if host == "*" || !is_host(host) {
        return None;
    }
    let (host, default) = match &*scheme {
        "http" => (host.to_ascii_lowercase(), Some(80)),
        "https" => (host.to_ascii_lowercase(), Some(443)),
        // What names an extension or an app is sent as it is.
        _ => (host.to_owned(), None),
    };
    let port = port.filter(|port| Some(*port) != default);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{scheme}://{host}{port}"))
}

/// A host and its port, if it has one; nothing where that is none.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    match authority.rsplit_once(':') {
        // The last colon of an address of IPv6 is within its brackets.
        Some((host, port)) if !port.ends_with(']') => {
            let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|_| is_number)?;
            Some((host, Some(port)))
        }
        _ => Some((authority, None)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_taken_as_browsers_write_it() {
        for (given, sent) in [
            ("*", "*"),
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example", "https://app.example"),
            ("https://b.example:443", "https://b.example"),
            ("http://b.example:443", "http://b.example:443"),
            ("http://localhost:80", "http://localhost"),
            ("http://localhost:03000", "http://localhost:3000"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[FE80::1]", "http://[fe80::1]"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("safari-web-extension://93F2-AB", "safari-web-extension://93F2-AB"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert_eq!(origin_of(given).as_deref(), Some(sent), "{given}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_no_origin() {
        for given in [
            "",
            "null",
            "app.example",
            "://app.example",
            "1http://app.example",
            "https://",
            "https://app.example/",
            "https://u@app.example",
            "https://app.example?q",
            "https://app.example#f",
            "https://app example",
            "https://app.example ",
            "https://*.example",
            "https://*",
            "https://b\u{fc}cher.example",
            "https://app.example:",
            "https://app.example:+1",
            "https://app.example:99999",
            "https://[::1",
            "https://[nonsense]",
            "https://::1",
            "ftp://app.example",
            "wss://app.example",
            "file://",
        ] {
            assert_eq!(origin_of(given), None, "{given}");
        }
    }
}
