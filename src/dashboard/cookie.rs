//! The cookie of a log-in.

use axum::http::{HeaderMap, header};

use crate::auth::{Access, Credential};

use super::{place, state::Dashboard};

const COOKIE: &str = "pgmq_gateway_session";

/// What a browser shows of an earlier log-in.
pub(super) fn shown(headers: &HeaderMap, access: &Access) -> Option<Credential> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|all| all.to_str().ok());
    let named = |cookie: &&str| cookie.starts_with(COOKIE);
    let mut found = cookies.flat_map(|all| all.split(';')).map(str::trim).filter(named);
    let value = found.find_map(|cookie| cookie.strip_prefix(COOKIE)?.strip_prefix('='))?;
    access.session(value)
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
