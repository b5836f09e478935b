//! Whether a request is signed by the key that it names.

use std::borrow::Cow;

use axum::http::request::Parts;
use chrono::Utc;
use sha2::{Digest, Sha256};

use crate::{
    auth::SigningKey,
    http::{Rejection, bearer},
};

use super::{
    canonical::{CONTENT_HASH, Signed, normalized},
    digest::hex,
    error::{Kind, Result, SqsError},
    signature::{Signature, mismatch},
    state::{Sqs, host},
};

const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. \
                        Check your AWS Secret Access Key and signing method. Consult the service \
                        documentation for details.";
/// Ports that clients leave out of the name of a host.
const DEFAULT_PORTS: [&str; 2] = [":443", ":80"];

/// The signature of a request, where credentials are needed; its key is known and its time fits.
pub(super) fn signature(sqs: &Sqs, parts: &Parts) -> Result<Option<(Signature, SigningKey)>> {
    if !sqs.access().is_required() {
        return Ok(None);
    }
    let Some(signature) = Signature::of(&signed(parts, host(parts), parts.uri.path()))? else {
        if bearer(&parts.headers).is_some() {
            return Ok(None);
        }
        let message = "Request is missing Authentication Token";
        return Err(SqsError::new(Kind::MissingAuthenticationToken, message));
    };
    let Some(key) = sqs.access().signing_key(&signature.access_key_id) else {
        sqs.metrics.refused("unauthenticated");
        return Err(Rejection::Unauthenticated.into());
    };
    signature.check_time(Utc::now())?;
    Ok(Some((signature, key)))
}

fn signed<'a>(parts: &'a Parts, host: &'a str, path: &'a str) -> Signed<'a> {
    let query = parts.uri.query().unwrap_or_default();
    Signed { method: &parts.method, path, query, headers: &parts.headers, host }
}

/// The SHA-256 of the body of a request, where its client says it before: then that is what is signed.
pub(super) fn announced_hash(parts: &Parts) -> Option<&str> {
    parts.headers.get(CONTENT_HASH)?.to_str().ok()
}

/// The SHA-256 of a body as it came.
pub(super) fn hash(body: &[u8]) -> String {
    hex(&Sha256::digest(body))
}

/// Refuses a body that is not the one that was announced and signed.
pub(super) fn check_hash(sqs: &Sqs, announced: &str, hash: &str) -> Result<()> {
    if announced == hash {
        return Ok(());
    }
    sqs.metrics.refused("unauthenticated");
    Err(mismatch(MISMATCH))
}

/// Refuses a request that is not signed with its key, with a body of this SHA-256 in hexadecimal digits. What a proxy
/// has changed is looked at as the client may have written it.
pub(super) fn verify(
    sqs: &Sqs,
    signature: &Signature,
    key: &SigningKey,
    parts: &Parts,
    base_path: &str,
    body_hash: &str,
) -> Result<()> {
    let paths = paths(parts.uri.path(), base_path);
    for host in hosts(parts) {
        for path in &paths {
            if signature.is_of(&key.secret, &signed(parts, &host, path), body_hash) {
                return Ok(());
            }
        }
    }
    sqs.metrics.refused("unauthenticated");
    Err(mismatch(MISMATCH))
}

/// What the client may have called the gateway.
fn hosts(parts: &Parts) -> Vec<Cow<'_, str>> {
    let said = |name: &str| parts.headers.get(name)?.to_str().ok()?.split(',').next();
    let port = said("x-forwarded-port").map(str::trim);
    let port =
        port.filter(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let mut hosts = Vec::new();
    for host in [Some(host(parts)), said("x-forwarded-host").map(str::trim)].into_iter().flatten() {
        hosts.push(host.into());
        hosts.extend(DEFAULT_PORTS.iter().find_map(|port| host.strip_suffix(port)).map(Cow::from));
        hosts.extend(port.map(|port| format!("{host}:{port}").into()));
    }
    hosts
}

/// What may have stood behind that: proxies strip a prefix, and SDKs sign a path without its detours.
fn paths<'a>(path: &'a str, base_path: &'a str) -> Vec<Cow<'a, str>> {
    let mut paths = vec![Cow::from(path)];
    if !base_path.is_empty() {
        paths.push(format!("{base_path}{path}").into());
        if path == "/" {
            paths.push(base_path.into());
        }
    }
    let direct: Vec<String> = paths.iter().map(|path| normalized(path)).collect();
    for path in direct {
        if !paths.iter().any(|known| *known == path) {
            paths.push(path.into());
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_host_is_what_the_client_may_have_written() {
        for (headers, expected) in [
            (&[("host", "h:8080")][..], &["h:8080"][..]),
            (&[("host", "h:443")], &["h:443", "h"]),
            (
                &[("host", "in:8080"), ("x-forwarded-host", "out:80, between")],
                &["in:8080", "out:80", "out"],
            ),
            (&[("host", "h"), ("x-forwarded-port", "8443")], &["h", "h:8443"]),
            (&[("host", "h"), ("x-forwarded-port", "x")], &["h"]),
        ] {
            assert_eq!(hosts(&parts(headers)), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_path_is_what_the_client_may_have_written() {
        for (path, base, expected) in [
            ("/", "", &["/"][..]),
            ("/", "/mq", &["/", "/mq/", "/mq"]),
            ("/000000000000/q", "/mq", &["/000000000000/q", "/mq/000000000000/q"]),
            ("//", "", &["//", "/"]),
            ("//q", "/mq", &["//q", "/mq//q", "/q", "/mq/q"]),
        ] {
            assert_eq!(paths(path, base), expected, "{path} {base}");
        }
    }
}
