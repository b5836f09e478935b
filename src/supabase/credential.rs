//! Who asks: `Authorization: Bearer`, else `apikey`.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use crate::http::{Caller, Rejection, bearer, key_of};

use super::{failure::Failure, state::Supabase};

const API_KEY: &str = "apikey";

/// Lets the caller in.
pub(super) async fn authenticate(parts: &Parts, state: &Supabase) -> Result<Caller, Failure> {
    let headers = &parts.headers;
    let credential = if headers.contains_key(header::AUTHORIZATION) {
        bearer(headers)
    } else {
        api_key(headers).and_then(key_of)
    };
    let caller = Caller::authenticate(parts, state, credential).await;
    caller.map_err(|rejection| match rejection {
        Rejection::Unauthenticated => unauthenticated(headers),
        rejection => rejection.into(),
    })
}

/// The key that stands there once.
fn api_key(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(API_KEY).iter();
    let first = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(first)
}

fn unauthenticated(headers: &HeaderMap) -> Failure {
    let shown = headers.get(header::AUTHORIZATION).or_else(|| headers.get(API_KEY));
    let failure = |message| Failure::new(StatusCode::UNAUTHORIZED, "PGRST301", message);
    match shown.map(HeaderValue::as_bytes) {
        None => failure("No API key found in request").hint(
            "No `apikey` or `Authorization: Bearer` request header was found; both take a key of the \
             gateway's",
        ),
        Some(shown) if is_signed_with_a_secret(shown) => failure("Invalid API key").hint(
            "This token is signed with a shared secret (HS256), which the gateway does not take: whoever \
             can check such a token can make one. Use a key of the gateway's, or tokens that are signed \
             with a private key (RS256, ES256, EdDSA) and whose JWKS the gateway is given",
        ),
        Some(_) => failure("Invalid API key")
            .hint("The gateway takes its own keys, and tokens of those whose JWKS it is given"),
    }
}

/// Whether what was shown is a token of the kind that the gateway never takes.
fn is_signed_with_a_secret(shown: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
    }

    let token = shown.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let Some(header) = token.split(|byte| *byte == b'.').next() else { return false };
    let json = URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
    serde_json::from_slice::<Header>(&json).is_ok_and(|header| header.alg.starts_with("HS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_with_a_shared_secret_are_recognised() {
        let token = |alg: &str| {
            let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#));
            format!("Bearer {header}.e30.c2ln")
        };
        assert!(is_signed_with_a_secret(token("HS256").as_bytes()));
        assert!(is_signed_with_a_secret(token("HS512").trim_start_matches("Bearer ").as_bytes()));
        for other in [&token("RS256"), "Bearer a-key-of-the-gateway", "", "Bearer e30.e30.e30"] {
            assert!(!is_signed_with_a_secret(other.as_bytes()), "{other}");
        }
    }
}
