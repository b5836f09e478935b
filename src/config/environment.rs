//! What the environment says of settings, and what it only seems to say.

use std::{
    ffi::{OsStr, OsString},
    fs,
};

use config::{File, FileFormat, Map, Source, Value, ValueKind};

use crate::domain::spelling::{closest, folded};

use super::refusal::{ConfigError, KEYS, ROLES, unknown};

/// What every variable of the gateway's begins with.
const PREFIX: &str = "PGMQ_GATEWAY__";
/// The variable that names the file, which the command line reads.
pub const CONFIG_FILE: &str = "PGMQ_GATEWAY_CONFIG";
const DATABASE_URL: &str = "DATABASE_URL";
/// Variables that platforms set, and the settings they stand for.
const CUSTOMARY: [(&str, &str); 2] = [(DATABASE_URL, "database.url"), ("PORT", "server.port")];
/// Variables that the driver reads, and takes for unset where they are not UTF-8.
const DRIVER: [&str; 12] = [
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGPASSWORD",
    "PGDATABASE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGAPPNAME",
    "PGOPTIONS",
];

/// The environment as a source of the merge.
#[derive(Clone, Debug)]
pub(super) struct Environment(Map<String, Value>);

impl Environment {
    /// What the environment says, by key. An empty variable counts as unset; one of ours that is no
    /// text must not, as something else would be served in silence.
    pub(super) fn read(
        environment: &[(OsString, OsString)],
        known: &[String],
    ) -> Result<Self, ConfigError> {
        let (mut customary_values, mut values) = (Map::new(), Map::new());
        for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
            let name = &*name.to_string_lossy();
            if name.starts_with(PREFIX) {
                let (key, value) = setting(name, text(name, value)?, known)?;
                put(&mut values, &key, value)?;
            } else if DRIVER.contains(&name) {
                text(name, value)?;
            } else if let Some(key) = customary(name) {
                put(&mut customary_values, key, from_variable(name, text(name, value)?))?;
            } else if let Some(key) = name.strip_suffix("_FILE").and_then(customary) {
                let secret = read_secret(name, &text(name, value)?)?;
                put(&mut customary_values, key, from_variable(name, secret))?;
            }
        }
        // Ours win over them.
        customary_values.extend(values);
        Ok(Self(customary_values))
    }
}

/// Takes a value. The order of the environment is nobody's wish, so no other variable of the same rank may say
/// otherwise.
fn put(values: &mut Map<String, Value>, key: &str, value: Value) -> Result<(), ConfigError> {
    if let Some(other) = values.get(key).filter(|other| other.kind != value.kind) {
        let mut origins = [other.origin(), value.origin()].map(Option::unwrap_or_default);
        origins.sort_unstable();
        let [one, two] = origins;
        let why = format!("{one} and {two} say different things: unset one of them");
        return Err(ConfigError(format!("`{key}`: {why}")));
    }
    values.insert(key.to_owned(), value);
    Ok(())
}

/// What the variables of a setting say of it, as far as they can be read.
pub(super) fn said_of<'a>(
    environment: &'a [(OsString, OsString)],
    key: &'a str,
) -> impl Iterator<Item = String> + 'a {
    let set = environment.iter().filter(|(_, value)| !value.is_empty());
    set.filter_map(move |(name, value)| {
        let (name, value) = (name.to_str()?, value.to_str()?);
        let named = key_of(name.strip_prefix(PREFIX)?);
        if named == key {
            return Some(value.to_owned());
        }
        let is_file = named.strip_suffix("_file") == Some(key);
        is_file.then(|| read_secret(name, value).ok()).flatten()
    })
}

/// The setting that is called so behind the prefix.
fn key_of(rest: &str) -> String {
    rest.to_lowercase().replace("__", ".")
}

impl Source for Environment {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Names that are almost those of settings and so mean nothing, each with what was probably meant.
pub(super) fn near_misses(environment: &[(OsString, OsString)], known: &[String]) -> Vec<String> {
    let names = names(known);
    let set = environment.iter().filter(|(_, value)| !value.is_empty());
    let misses = set.filter_map(|(name, value)| {
        let name = name.to_string_lossy();
        let meant = meant(&name, value, &names)?;
        Some(format!("environment variable {name} is no setting's and is ignored; {meant}"))
    });
    misses.collect()
}

/// What somebody may have meant who set a variable; nothing if it is not about the gateway.
fn meant(name: &str, value: &OsStr, names: &[String]) -> Option<String> {
    let is_read = name.starts_with(PREFIX) || name == CONFIG_FILE || name == DATABASE_URL;
    if is_read || is_kubernetes(name, value) {
        return None;
    }
    if name.eq_ignore_ascii_case(DATABASE_URL) {
        return Some(format!("{DATABASE_URL} was probably meant"));
    }
    let letters = folded(name);
    let has_prefix = letters.starts_with(&folded(PREFIX));
    if !has_prefix && !letters.contains("gateway") && !letters.starts_with("pgmq") {
        return None;
    }
    match alike(&letters, names) {
        Some(alike) => Some(format!("{alike} was probably meant")),
        None if has_prefix => Some(format!("those of settings are as {PREFIX}SERVER__PORT")),
        None => None,
    }
}

/// The variables that are much like one that was folded, or have the same name in any section.
fn alike(letters: &str, names: &[String]) -> Option<String> {
    if let Some(closest) = closest(letters, names) {
        return Some(closest.to_owned());
    }
    let rest = letters.strip_prefix(&folded(PREFIX)).filter(|rest| !rest.is_empty())?;
    let same = |name: &&String| name.rsplit("__").next().is_some_and(|last| folded(last) == rest);
    let same: Vec<&str> = names.iter().filter(same).map(String::as_str).collect();
    (!same.is_empty()).then(|| same.join(" or "))
}

/// The name of every variable there is.
fn names(known: &[String]) -> Vec<String> {
    let of = |key: &String| format!("{PREFIX}{}", key.replace('.', "__").to_uppercase());
    let mut names = vec![CONFIG_FILE.to_owned()];
    for name in known.iter().map(of) {
        names.push(format!("{name}_FILE"));
        names.push(name);
    }
    names
}

/// What Kubernetes sets in every pod beside a service that is called `pgmq-gateway`.
fn is_kubernetes(name: &str, value: &OsStr) -> bool {
    let Some(rest) = name.strip_prefix("PGMQ_GATEWAY_") else { return false };
    let is_address = value.to_string_lossy().contains("://");
    let numbered = rest
        .strip_prefix("PORT_")
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    rest.starts_with("SERVICE_HOST")
        || rest.starts_with("SERVICE_PORT")
        || numbered
        || (rest == "PORT" && is_address)
}

fn customary(name: &str) -> Option<&'static str> {
    CUSTOMARY.iter().find(|(customary, _)| *customary == name).map(|(_, key)| *key)
}

fn text(name: &str, value: &OsStr) -> Result<String, ConfigError> {
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| ConfigError(format!("environment variable {name} is not UTF-8")))
}

/// The setting that one of our variables is about, and what it says of it.
fn setting(name: &str, value: String, known: &[String]) -> Result<(String, Value), ConfigError> {
    let key = key_of(&name[PREFIX.len()..]);
    if known.contains(&key) {
        let value = given(&key, name, value)?;
        return Ok((key, value));
    }
    let file_key = key.strip_suffix("_file").filter(|key| known.iter().any(|known| known == key));
    let Some(file_key) = file_key else {
        let error = unknown(&key, &format!("environment variable {name}"), known);
        let alike = alike(&folded(name), &names(known));
        let alike = alike.map(|alike| format!("; {alike} was probably meant"));
        return Err(ConfigError(error.0 + &alike.unwrap_or_default()));
    };
    let value = given(file_key, name, read_secret(name, &value)?)?;
    Ok((file_key.to_owned(), value))
}

/// What a variable says of a setting.
fn given(key: &str, name: &str, value: String) -> Result<Value, ConfigError> {
    let example = match key {
        KEYS => {
            "[{\"name\": \"shop\", \"key_file\": \"/run/secrets/shop\", \"grants\": [\"send:orders*\"]}]"
        }
        ROLES => "[{\"role\": \"authenticated\", \"grants\": [\"send:orders*\"]}]",
        _ => return Ok(from_variable(name, value)),
    };
    let list = list_in_text(&value).ok_or_else(|| {
        let allowed = format!("expected a list in JSON or TOML, such as {example}");
        ConfigError(format!("`{key}` from environment variable {name}: {allowed}"))
    })?;
    Ok(Value::new(Some(&format!("environment variable {name}")), ValueKind::Array(list)))
}

/// A list in JSON, or as a file has it.
pub(super) fn list_in_text(text: &str) -> Option<Vec<Value>> {
    list_in_json(text).or_else(|| list_in_toml(text))
}

fn list_in_json(text: &str) -> Option<Vec<Value>> {
    serde_json::from_str(text).ok()
}

/// The value of a line of the file; nothing if it is more than that.
fn list_in_toml(text: &str) -> Option<Vec<Value>> {
    let line = File::from_str(&format!("list = {text}"), FileFormat::Toml);
    let mut table = line.collect().ok()?;
    match table.remove("list")?.kind {
        ValueKind::Array(list) if table.is_empty() => Some(list),
        _ => None,
    }
}

fn from_variable(name: &str, value: String) -> Value {
    Value::new(Some(&format!("environment variable {name}")), value)
}

/// The content of a mounted secret without its last line end.
fn read_secret(name: &str, path: &str) -> Result<String, ConfigError> {
    let content = fs::read_to_string(path).map_err(|e| {
        ConfigError(format!("environment variable {name}: cannot read {path}: {e}"))
    })?;
    Ok(content.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
#[path = "environment_tests.rs"]
mod tests;
