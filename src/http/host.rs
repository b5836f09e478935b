//! The name that a request is for, as `Host` says it, or HTTP/2's `:authority`.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderValue, Version, header, uri::Authority},
};

use super::rejection::Rejection;

/// Names that are answered to.
#[derive(Clone, Debug, Default)]
pub enum Hosts {
    /// Any.
    #[default]
    Any,
    /// Those under which a browser on this machine reaches it, and to which no page can have a name of
    /// its own lead.
    Loopback,
    /// These, in lower case and without a port; `*` is any.
    Named(Vec<String>),
}

impl Hosts {
    /// Refuses a request for another name: a page of another site can have its own name lead to this
    /// machine, and the name gives it away.
    pub(super) fn check(&self, request: &Request) -> Result<(), Rejection> {
        let Some(given) = given(request) else { return Ok(()) };
        let name = String::from_utf8_lossy(given);
        let name = without_port(&name);
        let is_known = match self {
            Self::Any => true,
            Self::Loopback => is_loopback(name),
            Self::Named(names) => {
                names.iter().any(|known| known == "*" || known.eq_ignore_ascii_case(name))
            }
        };
        if is_known {
            return Ok(());
        }
        Err(Rejection::UnknownHost)
    }
}

/// Refuses a request that does not say once whom it is for: a proxy in front may have taken it to be for
/// somebody else.
pub(super) fn check_header(request: &Request) -> Result<(), Rejection> {
    let mut all = request.headers().get_all(header::HOST).iter();
    let (first, second) = (all.next(), all.next());
    if second.is_some() {
        return Err(Rejection::Malformed(
            "`Host` is there more than once; a request is for one host".into(),
        ));
    }
    let Some(host) = first else {
        if request.version() == Version::HTTP_11 {
            return Err(Rejection::Malformed("`Host` is missing; HTTP/1.1 needs one".into()));
        }
        return Ok(());
    };
    let is_name = is_plain(host.as_bytes())
        || Authority::try_from(host.as_bytes())
            .is_ok_and(|name| !name.as_str().contains('@') && !name.host().is_empty());
    if !is_name {
        return Err(Rejection::Malformed(
            "`Host` is no name of a host, with or without a port".into(),
        ));
    }
    let authority = request.uri().authority().map(Authority::as_str);
    // A target that is a whole URL takes its place in HTTP/1; in HTTP/2 there is nothing to choose.
    let differs = |name: &str| !host.as_bytes().eq_ignore_ascii_case(name.as_bytes());
    if request.version() == Version::HTTP_2 && authority.is_some_and(differs) {
        return Err(Rejection::Malformed("`Host` and `:authority` name different hosts".into()));
    }
    Ok(())
}

/// Whether this is a name of letters and digits, with or without a port, or nothing: most are, and there is
/// nothing to take to pieces about it.
fn is_plain(host: &[u8]) -> bool {
    let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
    let (name, port) = host.split_at(end);
    let is_named = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let has_name = !name.is_empty() && name.iter().all(is_named);
    let has_port = port.len() <= 6 && port.iter().skip(1).all(u8::is_ascii_digit);
    host.is_empty() || (has_name && has_port)
}

/// The name and the port that a request is for.
pub(super) fn given(request: &Request) -> Option<&[u8]> {
    let in_header = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    authority.or(in_header)
}

/// Whether a name is this machine's, whoever says it.
fn is_loopback(name: &str) -> bool {
    if name == "127.0.0.1" || name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The host of `host:port`; that of IPv6 keeps its brackets.
fn without_port(authority: &str) -> &str {
    let end = authority.rfind(':').filter(|at| {
        let port = &authority[at + 1..];
        !authority.ends_with(']') && port.bytes().all(|b| b.is_ascii_digit())
    });
    &authority[..end.unwrap_or(authority.len())]
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use proptest::prelude::*;

    use super::*;

    fn request(version: Version, hosts: &[&str], target: &str) -> Request {
        let mut request = Request::get(target).version(version);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(Body::empty()).expect("a request")
    }

    #[test]
    fn only_known_names_are_answered_to() {
        let named = Hosts::Named(vec!["queue.example".to_owned()]);
        for (host, is_loopback, is_named) in [
            ("localhost", true, false),
            ("LOCALHOST:8080", true, false),
            ("127.0.0.1:1", true, false),
            ("127.8.8.8", true, false),
            ("[::1]:8080", true, false),
            ("[::1]", true, false),
            ("[::ffff:127.0.0.1]:8080", true, false),
            ("[::ffff:7f00:1]", true, false),
            ("10.0.0.1", false, false),
            ("[::ffff:10.0.0.1]", false, false),
            ("Queue.Example:443", false, true),
            ("evil.example", false, false),
            ("localhost.evil.example:8080", false, false),
            ("localhost:80@evil", false, false),
            ("", false, false),
        ] {
            let request = request(Version::HTTP_11, &[host], "/");
            assert_eq!(Hosts::Loopback.check(&request).is_ok(), is_loopback, "{host:?}");
            assert_eq!(named.check(&request).is_ok(), is_named, "{host:?}");
            assert!(Hosts::Any.check(&request).is_ok());
        }
        let nameless = request(Version::HTTP_10, &[], "/");
        assert!(Hosts::Loopback.check(&nameless).is_ok());
    }

    #[test]
    fn a_request_is_for_one_host() {
        use Version as V;
        for (version, hosts, target, fine) in [
            (V::HTTP_11, &["a"][..], "/", true),
            (V::HTTP_11, &["a:80"], "/", true),
            (V::HTTP_11, &[""], "/", true),
            (V::HTTP_11, &["[::1]:80"], "/", true),
            (V::HTTP_11, &[], "/", false),
            (V::HTTP_11, &["a", "a"], "/", false),
            (V::HTTP_11, &["a b"], "/", false),
            (V::HTTP_11, &["a/b"], "/", false),
            (V::HTTP_11, &["u@a"], "/", false),
            (V::HTTP_11, &[":80"], "/", false),
            (V::HTTP_11, &["b"], "http://a/", true),
            (V::HTTP_10, &[], "/", true),
            (V::HTTP_10, &["a", "b"], "/", false),
            (V::HTTP_2, &[], "http://a/", true),
            (V::HTTP_2, &["A"], "http://a/", true),
            (V::HTTP_2, &["b"], "http://a/", false),
            (V::HTTP_2, &["a"], "/", true),
        ] {
            let checked = check_header(&request(version, hosts, target));
            assert_eq!(checked.is_ok(), fine, "{version:?} {hosts:?} {target}");
        }
    }

    proptest! {
        #[test]
        fn any_host_is_read_without_panic(host in "\\[?[a-z0-9:.\\]é-]{0,30}") {
            let name = without_port(&host);
            prop_assert!(host.starts_with(name));
        }
    }
}
