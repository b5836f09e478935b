//! The public keys of whoever signs tokens: a JSON Web Key Set from a file or a URL.

use std::{io, path::PathBuf, time::Duration};

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse},
};
use tokio::time::timeout;

/// Time for fetching a set.
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of a set.
const MAX_BYTES: usize = 1 << 20;
/// The most keys of a set that are looked at.
const MAX_KEYS: usize = 100;

/// Where the keys are.
#[derive(Clone, Debug)]
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
    #[error("jwt.jwks: there is no key for RS256, ES256 or EdDSA in this JSON Web Key Set")]
    NoKey,
}

/// A signer's keys.
pub(super) struct KeySet {
    text: String,
    keys: Vec<SignerKey>,
}

/// One of them. A key is for one algorithm, whatever a token says.
pub(super) struct SignerKey {
    id: Option<String>,
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
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(failed)?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_BYTES {
            return Err(JwksError::Fetch(format!("it has more than {MAX_BYTES} bytes")));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl KeySet {
    pub(super) fn parse(text: String) -> Result<Self, JwksError> {
        let set: JwkSet = serde_json::from_str(&text).map_err(JwksError::NotASet)?;
        let keys: Vec<SignerKey> =
            set.keys.iter().take(MAX_KEYS).filter_map(SignerKey::new).collect();
        if keys.is_empty() { Err(JwksError::NoKey) } else { Ok(Self { text, keys }) }
    }

    /// Whether another set says the same.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.text == other.text
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
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(okp) if okp.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            _ => return None,
        };
        let other_use = matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
        let named = jwk.common.key_algorithm.map(|named| named.to_string());
        let other_algorithm = named.is_some_and(|named| named != format!("{algorithm:?}"));
        if other_use || other_algorithm {
            return None;
        }
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: jwk.common.key_id.clone(), algorithm, key })
    }
}
