use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use crate::domain::Grant;

use super::{Invalid, check_range};

/// Seconds for which keys are used that cannot be loaded again, unless something else is said.
const USUAL_MAX_AGE: u64 = 3_600;

/// `[jwt]`: tokens that somebody else signs, in place of keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jwt {
    /// The signer's public keys, as a JSON Web Key Set: a file, or where they are published. What may be
    /// secret in a URL is not shown.
    #[serde(serialize_with = "without_secrets")]
    pub jwks: Option<String>,
    /// What the claim `iss` must be.
    pub issuer: Option<String>,
    /// What the claim `aud` must contain.
    pub audience: Option<String>,
    /// The claim that says what its bearer may do: `right:queues`, several between spaces or in a
    /// list.
    pub grants_claim: String,
    /// What bearers of a `role` may do beside that, as Supabase's tokens have one.
    pub roles: Vec<RoleGrants>,
    /// Seconds by which clocks may differ.
    pub leeway_seconds: u64,
    /// Seconds between two looks at the signer's keys.
    pub refresh_interval_seconds: u64,
    /// Seconds for which keys are used that cannot be loaded again; an hour if not given, or four times
    /// the time between two looks where that is more.
    pub max_age_seconds: Option<u64>,
}

/// What the bearers of a role may do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleGrants {
    /// What the claim `role` is.
    pub role: String,
    /// What they may do, each as `send,receive:orders*`.
    pub grants: Vec<Grant>,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            jwks: None,
            issuer: None,
            audience: None,
            grants_claim: "scope".to_owned(),
            roles: Vec::new(),
            leeway_seconds: 30,
            refresh_interval_seconds: 300,
            max_age_seconds: None,
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
        self.jwks.as_deref().filter(|at| scheme(at).is_some())
    }

    /// Time between two looks at the signer's keys.
    pub fn refresh_interval(&self) -> Duration {
        Duration::from_secs(self.refresh_interval_seconds)
    }

    /// Age at which keys are not used any more.
    pub fn max_age(&self) -> Duration {
        let usual = || self.refresh_interval_seconds.saturating_mul(4).max(USUAL_MAX_AGE);
        Duration::from_secs(self.max_age_seconds.unwrap_or_else(usual))
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("jwt.leeway_seconds", self.leeway_seconds, 0, 600)?;
        check_range("jwt.refresh_interval_seconds", self.refresh_interval_seconds, 1, 86_400)?;
        check_range("jwt.max_age_seconds", self.max_age().as_secs(), 1, 31_536_000)?;
        let refused = |key, allowed: &str| Err(Invalid { key, allowed: allowed.to_owned() });
        if self.max_age() <= self.refresh_interval() {
            let shorter = "it must be more than jwt.refresh_interval_seconds, or keys would not be used \
                           until they are loaded again";
            return refused("jwt.max_age_seconds", shorter);
        }
        // May have a secret in it, and is not shown.
        let is_usable = |at: &str| match scheme(at) {
            Some(scheme) => scheme.eq_ignore_ascii_case("https") || is_loopback(at),
            None => true,
        };
        if self.jwks.as_deref().is_some_and(|at| !is_usable(at)) {
            let allowed = "keys are fetched by https://, or by http:// from this machine, or read from \
                           a file, of which the path has no `://`";
            return refused("jwt.jwks", allowed);
        }
        if self.is_on() && (self.issuer.is_none() || self.audience.is_none()) {
            let missing = "tokens of other issuers, or for others, would be taken: both \
                           jwt.issuer and jwt.audience must be set";
            return refused("jwt.issuer", missing);
        }
        let mut roles = HashSet::new();
        if self.roles.iter().any(|role| role.role.is_empty()) {
            return refused("jwt.roles", "each role needs a name");
        }
        if let Some(twice) = self.roles.iter().find(|role| !roles.insert(&*role.role)) {
            let name = &twice.role;
            let twice = format!("`{name}` is there twice: one entry has all grants of a role");
            return refused("jwt.roles", &twice);
        }
        if self.grants_claim.is_empty() {
            return refused("jwt.grants_claim", "the name of a claim is needed");
        }
        Ok(())
    }
}

/// A URL may have a password or a token in it.
#[expect(clippy::ref_option, reason = "as serde has it")]
fn without_secrets<S: Serializer>(jwks: &Option<String>, out: S) -> Result<S::Ok, S::Error> {
    jwks.as_deref().map(shown).serialize(out)
}

fn shown(jwks: &str) -> String {
    let is_path = !jwks.contains("://");
    let Ok(mut url) = Url::parse(jwks) else {
        return if is_path { jwks.to_owned() } else { "(hidden)".to_owned() };
    };
    if is_path {
        return jwks.to_owned();
    }
    let plain = url.username().is_empty() && url.password().is_none();
    let plain = plain && url.query().is_none() && url.fragment().is_none();
    // A URL for which this fails has neither.
    let _ = (url.set_username(""), url.set_password(None));
    url.set_query(None);
    url.set_fragment(None);
    if plain { jwks.to_owned() } else { format!("{url} (the rest is hidden)") }
}

/// The scheme of a URL; a path has none.
fn scheme(jwks: &str) -> Option<&str> {
    jwks.split_once("://").map(|(scheme, _)| scheme)
}

fn is_loopback(url: &str) -> bool {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "http");
    let host = url.as_ref().and_then(Url::host_str);
    host.is_some_and(|host| ["localhost", "127.0.0.1", "[::1]"].contains(&host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        for (jwks, shows) in [
            ("/etc/jwks.json", "/etc/jwks.json"),
            ("C:/jwks.json", "C:/jwks.json"),
            ("https://login.example/.well-known/jwks", "https://login.example/.well-known/jwks"),
            ("https://login.example", "https://login.example"),
            ("https://h/a?token=s3cret", "https://h/a (the rest is hidden)"),
            ("https://h/a#s3cret", "https://h/a (the rest is hidden)"),
            ("https://me:s3cret@h/a", "https://h/a (the rest is hidden)"),
            ("https://s3cret@h:8443/", "https://h:8443/ (the rest is hidden)"),
            ("https://[s3cret", "(hidden)"),
        ] {
            assert_eq!(shown(jwks), shows);
        }
    }

    #[test]
    fn keys_are_fetched_safely_whatever_the_case_of_the_scheme() {
        for (at, published, taken) in [
            ("/etc/jwks.json", false, true),
            ("HTTPS://me:s3cret@login.example/jwks?token=t", true, true),
            ("https://login.example/jwks", true, true),
            ("HTTP://127.0.0.1/jwks", true, true),
            ("Http://login.example/s3cret", true, false),
            ("ftp://me:s3cret@127.0.0.1/jwks", true, false),
            ("file:///s3cret", true, false),
        ] {
            let some = |text: &str| Some(text.to_owned());
            let jwks = some(at);
            let jwt = Jwt { jwks, issuer: some("i"), audience: some("a"), ..Jwt::default() };
            assert_eq!(jwt.published_at().is_some(), published, "{at}");
            let checked = jwt.check().map_err(|refused| refused.allowed);
            assert_eq!(checked.is_ok(), taken, "{at}: {checked:?}");
            assert!(checked.err().is_none_or(|said| !said.contains("s3cret")), "{at}");
        }
    }

    fn load(toml: &str, variable: &str) -> Result<Jwt, String> {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
        std::io::Write::write_all(&mut file, toml.as_bytes()).expect("written");
        let environment = vec![("PGMQ_GATEWAY__JWT__ROLES".into(), variable.into())];
        let sources =
            Sources { file: Some(file.path().to_owned()), environment, options: Vec::new() };
        let loaded = super::super::load(&sources).map_err(|error| error.to_string())?;
        Ok(loaded.settings.jwt)
    }

    #[test]
    fn roles_are_a_list_with_grants() {
        let variable = r#"[{"role":"authenticated","grants":["send:a*","receive:b"]}]"#;
        let toml = format!("[jwt]\nroles = {}\n", variable.replace("\":", "\"="));
        let toml = toml.replace("\"role\"", "role").replace("\"grants\"", "grants");
        for (file, variable) in [("", variable), (&*toml, "")] {
            let jwt = load(file, variable).expect("valid");
            assert_eq!((&*jwt.roles[0].role, jwt.roles[0].grants.len()), ("authenticated", 2));
        }
        for (value, said) in [
            ("authenticated", "expected a list in JSON or TOML"),
            (r#"[{"role":"a","grants":["fly:q"]}]"#, "jwt.roles"),
            (r#"[{"role":"","grants":[]}]"#, "each role needs a name"),
            (r#"[{"role":"a","grants":[]},{"role":"a","grants":[]}]"#, "`a` is there twice"),
            (r#"[{"role":"a","grants":[],"claim":1}]"#, "jwt.roles"),
        ] {
            let refused = load("", value).expect_err("refused");
            assert!(refused.contains(said), "{value}: {refused}");
        }
    }
}
