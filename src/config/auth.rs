use std::{collections::HashSet, path::PathBuf, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, Serializer};

use crate::domain::{Grant, KeyHash};

use super::{Invalid, Secret, check_range};

/// `[auth]`: who is let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Whether clients need a credential.
    pub mode: AuthMode,
    /// A key that may do everything.
    pub admin_key: Option<Secret>,
    /// Further keys.
    pub keys: Vec<KeySettings>,
    /// Milliseconds between two looks at the keys in the database.
    pub refresh_interval_ms: u64,
}

/// Whether clients need a credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum AuthMode {
    /// As soon as there is one that they could have; until then only this machine is served.
    #[default]
    Auto,
    /// They do.
    Required,
    /// Nobody does, wherever the gateway listens.
    None,
}

impl TryFrom<String> for AuthMode {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let meant = match &*name.to_ascii_lowercase() {
            "auto" => return Ok(Self::Auto),
            "required" => return Ok(Self::Required),
            "none" => return Ok(Self::None),
            "on" | "true" | "yes" | "enabled" | "require" | "always" | "1" => {
                "; required was probably meant"
            }
            "off" | "false" | "no" | "disabled" | "never" | "0" => "; none was probably meant",
            _ => "",
        };
        Err(format!("`{name}` is not one of auto, required, none{meant}"))
    }
}

/// A key in the configuration, of which one of the first three is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySettings {
    /// What people call it, and the logs.
    pub name: String,
    /// The key.
    #[serde(default)]
    pub key: Option<Secret>,
    /// A file that holds the key, such as a mounted secret.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// What `sha256sum` says of the key; not shown, so that nobody can tell a guess from it.
    #[serde(default, serialize_with = "hidden")]
    pub sha256: Option<String>,
    /// What it may do, each as `send,receive:orders*`.
    pub grants: Vec<Grant>,
    /// The end of its life.
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Requests in a second.
    #[serde(default)]
    pub requests_per_second: Option<u32>,
    /// Clients that wait at the same time.
    #[serde(default)]
    pub max_waiters: Option<u32>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            mode: AuthMode::default(),
            admin_key: None,
            keys: Vec::new(),
            refresh_interval_ms: 1_000,
        }
    }
}

impl Auth {
    /// What the key that may do everything is called.
    pub const ADMIN_KEY: &str = "admin_key";
    /// The fewest characters of a key: one that can be guessed keeps nobody out.
    pub const MIN_KEY_CHARS: usize = 16;
    /// The most.
    pub const MAX_KEY_CHARS: usize = 512;

    /// What is wrong with a key, if anything is. What no header can show lets nobody in.
    pub fn fault_of_key(key: &str) -> Option<String> {
        let length = key.chars().count();
        if !(Self::MIN_KEY_CHARS..=Self::MAX_KEY_CHARS).contains(&length) {
            let (least, most) = (Self::MIN_KEY_CHARS, Self::MAX_KEY_CHARS);
            return Some(format!("a key has {least} to {most} characters, not {length}"));
        }
        let is_shown = key.bytes().all(|byte| matches!(byte, b' '..=b'~')) && key.trim() == key;
        let unseen = "a key is of printable ASCII characters, without spaces at its ends, line ends or a byte \
                      order mark: nothing else can be shown in a header";
        (!is_shown).then(|| unseen.to_owned())
    }

    /// Time between two looks at the keys in the database.
    pub fn refresh_interval(&self) -> Duration {
        Duration::from_millis(self.refresh_interval_ms)
    }

    /// Whether the configuration has a key.
    pub fn has_keys(&self) -> bool {
        self.admin_key.is_some() || !self.keys.is_empty()
    }

    /// By its name a key is known in the logs: no two have the same.
    fn check_names(&self) -> Result<(), Invalid> {
        let mut names: HashSet<&str> = self.admin_key.iter().map(|_| Self::ADMIN_KEY).collect();
        match self.keys.iter().find(|key| !names.insert(&key.name)) {
            None => Ok(()),
            Some(KeySettings { name, .. }) => {
                let allowed =
                    format!("`{name}` is the name of two keys: each needs one of its own");
                Err(Invalid { key: "auth.keys", allowed })
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), Invalid> {
        check_range("auth.refresh_interval_ms", self.refresh_interval_ms, 100, 4_000)?;
        check_key("auth.admin_key", self.admin_key.as_ref())?;
        self.check_names()?;
        for key in &self.keys {
            let given = [key.key.is_some(), key.key_file.is_some(), key.sha256.is_some()];
            if given.iter().filter(|given| **given).count() != 1 {
                let name = &key.name;
                let allowed = format!("`{name}` needs one of `key`, `key_file` and `sha256`");
                return Err(Invalid { key: "auth.keys", allowed });
            }
            if key.sha256.as_ref().is_some_and(|hash| KeyHash::from_hex(hash).is_none()) {
                let allowed = "`sha256` has 64 hexadecimal digits, as sha256sum prints them";
                return Err(Invalid { key: "auth.keys", allowed: allowed.to_owned() });
            }
            check_key("auth.keys", key.key.as_ref()).map_err(|invalid| Invalid {
                allowed: format!("`{}`: {}", key.name, invalid.allowed),
                ..invalid
            })?;
            let limits = [
                ("requests_per_second", key.requests_per_second),
                ("max_waiters", key.max_waiters),
            ];
            for (field, limit) in
                limits.into_iter().filter_map(|(field, limit)| Some((field, limit?)))
            {
                let name = &key.name;
                check_range("auth.keys", limit, 1, 1_000_000).map_err(|invalid| Invalid {
                    allowed: format!("`{field}` of `{name}`: {}", invalid.allowed),
                    ..invalid
                })?;
            }
        }
        Ok(())
    }
}

#[expect(clippy::ref_option, reason = "as serde has it")]
fn hidden<S: Serializer>(value: &Option<String>, out: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(|_| "(hidden)").serialize(out)
}

fn check_key(key: &'static str, secret: Option<&Secret>) -> Result<(), Invalid> {
    let fault = secret.and_then(|secret| Auth::fault_of_key(secret.expose()));
    fault.map_or(Ok(()), |allowed| Err(Invalid { key, allowed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_no_header_can_show_is_refused() {
        for key in ["sixteen or more characters", "0123456789abcdef", "!\"#$%&'()*+,-./:;~"] {
            assert_eq!(Auth::fault_of_key(key), None, "{key:?}");
        }
        for key in [
            "gr\u{f6}\u{df}er-als-sechzehn-abcdef",
            "\u{feff}0123456789abcdef",
            " 0123456789abcdef",
            "0123456789abcdef ",
            "0123456789abcdef\t",
            "0123456789\nabcdef",
            "0123456789\u{1}abcdef",
            &"x".repeat(513),
        ] {
            let fault = Auth::fault_of_key(key).expect("refused");
            assert!(fault.starts_with("a key ") && !fault.contains("abcdef"), "{fault}");
        }
    }
}
