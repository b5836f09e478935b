//! The cookie of a log-in.

use axum::http::{HeaderMap, header};

use crate::auth::{Access, Credential};

use super::{place, state::Dashboard};

const COOKIE: &str = "pgmq_gateway_session";

/// What a browser shows of an earlier log-in: the first that is in force, as applications on other ports and
/// paths of the host may have given it cookies of the same name, and of any bytes.
pub(super) fn shown(headers: &HeaderMap, access: &Access) -> Option<Credential> {
    let mut log_ins = values(headers).filter_map(|value| access.session(value));
    log_ins.find(|log_in| access.find(Some(log_in)).is_ok())
}

/// The values of all cookies of our name.
fn values(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::COOKIE).iter();
    let cookies = all.flat_map(|all| all.as_bytes().split(|byte| *byte == b';'));
    let values = cookies.filter_map(|cookie| {
        cookie.trim_ascii().strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"=")
    });
    values.filter_map(|value| str::from_utf8(value).ok())
}

/// The cookie: for no script, for no page of another site, and over TLS only if it came by that.
pub(super) fn with(state: &Dashboard, headers: &HeaderMap, value: &str, seconds: i64) -> String {
    let secure = if is_secure(state, headers) { "; Secure" } else { "" };
    let path = place::root();
    format!("{COOKIE}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

/// Whether the browser reaches this by TLS: ours, or a proxy's, which says so.
fn is_secure(state: &Dashboard, headers: &HeaderMap) -> bool {
    let said = headers.get("x-forwarded-proto").and_then(|proto| proto.to_str().ok());
    let first = said.and_then(|said| said.split(',').next()).map(str::trim);
    first.map_or(state.shared().is_tls, |proto| proto.eq_ignore_ascii_case("https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_of_others_hides_none_of_ours() {
        for (shown, found) in [
            (&[&b"pgmq_gateway_session=a.b"[..]][..], &["a.b"][..]),
            (&[b"theme=\xe9t\xe9; pgmq_gateway_session=a.b"], &["a.b"]),
            (&[b"pgmq_gateway_session=\xe9;pgmq_gateway_session=a=b ;x"], &["a=b"]),
            (&[b"pgmq_gateway_session=a; pgmq_gateway_session=b"], &["a", "b"]),
            (&[b"x=\xff", b"pgmq_gateway_session=a"], &["a"]),
            (&[b"pgmq_gateway_session_2=a; pgmq_gateway_session"], &[]),
            (&[b";; ="], &[]),
        ] {
            let mut headers = HeaderMap::new();
            for line in shown {
                let line = axum::http::HeaderValue::from_bytes(line).expect("a value");
                headers.append(header::COOKIE, line);
            }
            assert_eq!(values(&headers).collect::<Vec<_>>(), found, "{shown:?}");
        }
    }
}
