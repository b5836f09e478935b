use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Invalid, within};

/// `[jwt]`: tokens that somebody else signs, in place of keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// The signer's public keys, as a JSON Web Key Set: a file, or where they are published.
    pub jwks: Option<String>,
    /// What the claim `iss` must be.
    pub issuer: Option<String>,
    /// What the claim `aud` must contain.
    pub audience: Option<String>,
    /// The claim that says what its bearer may do: `right:queues`, several between spaces or in a
    /// list.
    pub grants_claim: String,
    /// Seconds by which clocks may differ.
    pub leeway_seconds: u64,
    /// Seconds between two looks at the signer's keys.
    pub refresh_interval_seconds: u64,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            jwks: None,
            issuer: None,
            audience: None,
            grants_claim: "scope".to_owned(),
            leeway_seconds: 30,
            refresh_interval_seconds: 300,
        }
    }
}

impl Jwt {
    /// Whether tokens are taken.
    pub fn is_on(&self) -> bool {
        self.jwks.is_some()
    }

    /// Where the signer's keys are published, if they are not in a file.
    pub fn published_at(&self) -> Option<&str> {
        self.jwks.as_deref().filter(|at| at.starts_with("http://") || at.starts_with("https://"))
    }

    /// Time between two looks at the signer's keys.
    pub fn refresh_interval(&self) -> Duration {
        Duration::from_secs(self.refresh_interval_seconds)
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        within("jwt.leeway_seconds", self.leeway_seconds, 0, 600)?;
        within("jwt.refresh_interval_seconds", self.refresh_interval_seconds, 1, 86_400)?;
        let refused = |key, allowed: &str| Err(Invalid { key, allowed: allowed.to_owned() });
        let published = self.published_at();
        if published.is_some_and(|url| !url.starts_with("https://") && !is_loopback(url)) {
            return refused("jwt.jwks", "keys are fetched by https://, or from this machine");
        }
        if self.is_on() && (self.issuer.is_none() || self.audience.is_none()) {
            let missing = "tokens of other issuers, or for others, would be taken: both \
                           jwt.issuer and jwt.audience must be set";
            return refused("jwt.issuer", missing);
        }
        if self.grants_claim.is_empty() {
            return refused("jwt.grants_claim", "the name of a claim is needed");
        }
        Ok(())
    }
}

fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "http");
    let host = url.as_ref().and_then(Url::host_str);
    host.is_some_and(|host| ["localhost", "127.0.0.1", "[::1]"].contains(&host))
}
