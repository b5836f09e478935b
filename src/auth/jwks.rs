//! The public keys of whoever signs tokens: a JSON Web Key Set from a file or a URL.

use std::{io, path::PathBuf, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::timeout;

/// Time for fetching a set.
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of a set.
const MAX_BYTES: usize = 1 << 20;
/// The most keys of a set that are looked at.
const MAX_KEYS: usize = 100;
/// The fewest bits of an RSA key: a smaller one can be taken apart.
const MIN_RSA_BITS: usize = 2048;

/// Where the keys are. A URL may have a token in it, and is not shown.
#[derive(Clone)]
pub(super) enum Source {
    /// In a file.
    File(PathBuf),
    /// Behind a URL.
    Url(String),
}

/// Why there are no keys. What is behind a URL is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The file cannot be read.
    #[error("jwt.jwks: cannot read {0}: {1}")]
    File(PathBuf, io::Error),
    /// The signer does not answer.
    #[error("jwt.jwks: cannot fetch the signer's keys: {0}")]
    Fetch(String),
    /// It is no set of keys.
    #[error("jwt.jwks: this is no JSON Web Key Set: {0}")]
    NotASet(serde_json::Error),
    /// There is no key that is of use.
    #[error(
        "jwt.jwks: there is no key for RS256 (of {MIN_RSA_BITS} bits or more), ES256 or EdDSA in this \
         JSON Web Key Set"
    )]
    NoKey,
}

/// A signer's keys. There may be none: a signer that withdraws all of its keys shows a set without any.
#[derive(Default)]
pub(super) struct KeySet {
    text: String,
    keys: Vec<SignerKey>,
}

/// What a set looks like. A key of a kind that is not known here says nothing about the others.
#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

/// One of them. A key is for one algorithm, whatever a token says.
pub(super) struct SignerKey {
    id: Option<String>,
    /// Stands for the key itself and all that is said of it: another one may have the same id.
    pub(super) hash: [u8; 32],
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl Source {
    /// Loads the keys.
    pub(super) async fn load(&self) -> Result<KeySet, JwksError> {
        let text = match self {
            Self::File(path) => {
                let read = timeout(FETCH_LIMIT, tokio::fs::read_to_string(path)).await;
                let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                read.map_err(|error| JwksError::File(path.clone(), error))?
            }
            Self::Url(url) => fetch(url).await?,
        };
        KeySet::parse(text)
    }
}

async fn fetch(url: &str) -> Result<String, JwksError> {
    let failed = |error: reqwest::Error| JwksError::Fetch(error.without_url().to_string());
    let client = reqwest::Client::builder()
        .timeout(FETCH_LIMIT)
        // A signer that moves is one to be looked at by a person.
        .redirect(reqwest::redirect::Policy::none());
    // What goes in the clear is of this machine, and must not leave it for a proxy.
    let client = if is_encrypted(url) { client } else { client.no_proxy() };
    let client = client.build().map_err(failed)?;
    let mut answer = client.get(url).send().await.map_err(failed)?;
    if answer.status() != StatusCode::OK {
        return Err(JwksError::Fetch(format!("the answer is {}", answer.status())));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_BYTES {
            return Err(JwksError::Fetch(format!("it has more than {MAX_BYTES} bytes")));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn is_encrypted(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

impl KeySet {
    pub(super) fn parse(text: String) -> Result<Self, JwksError> {
        let set: Document = serde_json::from_str(&text).map_err(JwksError::NotASet)?;
        let known = set.keys.iter().take(MAX_KEYS).filter_map(|key| Jwk::deserialize(key).ok());
        let keys = known.filter_map(|key| SignerKey::new(&key)).collect();
        Ok(Self { text, keys })
    }

    /// Whether there is no key of use.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether another set says the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// Whether this very key is among them.
    pub(super) fn has(&self, hash: &[u8; 32]) -> bool {
        self.keys.iter().any(|key| key.hash == *hash)
    }

    /// The keys that a token with this id and algorithm could be signed with.
    pub(super) fn candidates<'a>(
        &'a self,
        id: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a SignerKey> {
        let by_id = move |key: &&SignerKey| id.is_none() || key.id.as_deref() == id;
        self.keys.iter().filter(by_id).filter(move |key| key.algorithm == algorithm)
    }

    /// Whether a key has this id.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.keys.iter().any(|key| key.id.as_deref() == Some(id))
    }
}

impl SignerKey {
    /// A key that is for signing, by one of the algorithms that are taken. What is secret (`oct`)
    /// never is: whoever could check a token with it could make one.
    fn new(jwk: &Jwk) -> Option<Self> {
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if bits(&rsa.n) >= MIN_RSA_BITS => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            _ => return None,
        };
        let other_use = matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption))
            || jwk
                .common
                .key_operations
                .as_ref()
                .is_some_and(|o| !o.contains(&KeyOperations::Verify));
        let named = jwk.common.key_algorithm.map(|named| named.to_string());
        let other_algorithm = named.is_some_and(|named| named != format!("{algorithm:?}"));
        if other_use || other_algorithm {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        let hash = Sha256::digest(serde_json::to_vec(jwk).ok()?).into();
        Some(Self { id: jwk.common.key_id.clone(), hash, algorithm, key })
    }
}

/// How many bits a number has that is written as in a JSON Web Key.
fn bits(number: &str) -> usize {
    let bytes = URL_SAFE_NO_PAD.decode(number.trim_end_matches('=')).unwrap_or_default();
    let Some(first) = bytes.iter().position(|byte| *byte != 0) else { return 0 };
    (bytes.len() - first) * 8 - bytes[first].leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bits_are_counted_from_the_first_that_is_set() {
        for (bytes, expected) in
            [(&[][..], 0), (&[0, 0], 0), (&[1], 1), (&[0x80, 0], 16), (&[0, 0x7f, 0xff], 15)]
        {
            assert_eq!(bits(&URL_SAFE_NO_PAD.encode(bytes)), expected, "{bytes:?}");
        }
        assert_eq!(bits("!"), 0);
    }

    #[test]
    fn a_set_is_one_whatever_keys_are_in_it() {
        let rsa = |bits: usize| {
            let modulus = vec![0xff; bits / 8];
            json!({"kty": "RSA", "kid": "r", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB"})
        };
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        let with = |mut key: Value, name: &str, value: Value| {
            key[name] = value;
            key
        };
        for (key, taken) in [
            (rsa(2048), true),
            (rsa(1024), false),
            (rsa(2040), false),
            (ed.clone(), true),
            (with(ed.clone(), "use", json!("sig")), true),
            (with(ed.clone(), "use", json!("enc")), false),
            (with(ed.clone(), "key_ops", json!(["verify"])), true),
            (with(ed.clone(), "key_ops", json!(["deriveKey"])), false),
            (with(ed, "alg", json!("ES256")), false),
            (json!({"kty": "oct", "k": "c2VjcmV0"}), false),
            (json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"}), false),
            (json!("no key"), false),
            (json!({}), false),
        ] {
            let set = KeySet::parse(json!({"keys": [key]}).to_string()).expect("a set");
            assert_eq!(!set.is_empty(), taken, "{key}");
        }
        assert!(KeySet::parse(r#"{"keys":[]}"#.to_owned()).is_ok_and(|set| set.is_empty()));
        for nonsense in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":null}"#, "<html>"] {
            assert!(KeySet::parse(nonsense.to_owned()).is_err(), "{nonsense}");
        }
    }
}
