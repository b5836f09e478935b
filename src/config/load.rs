//! Putting the sources together, and saying where a value came from.

use std::{collections::BTreeMap, ffi::OsString, fs, path::PathBuf};

use config::{Config, File, FileFormat, Map, Source, Value, ValueKind};

use super::{
    Log, LogFormat, Settings,
    environment::{Environment, near_misses, said_of},
    refusal::{ConfigError, KEYS, one_line, unknown},
};

/// Settings that are never shown.
const SECRETS: [&str; 4] =
    ["database.url", "database.direct_url", "receipts.signing_key", "auth.admin_key"];
/// What stands in place of one, or of a part of one.
const HIDDEN: &str = "(hidden)";

/// Where settings come from, weakest first; the defaults stand before them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables.
    pub environment: Vec<(OsString, OsString)>,
    /// What was given on the command line: the setting, the option's name, and the value.
    pub options: Vec<(&'static str, &'static str, String)>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// Each value as text, with its source, ordered by key.
    pub effective: Vec<Effective>,
    /// What is ignored, and what was probably meant: a line each.
    pub warnings: Vec<String>,
}

/// One setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// `section.name`.
    pub key: String,
    /// The value as TOML, `unset`, or `(hidden)`.
    pub value: String,
    /// `default`, a file or an environment variable.
    pub source: String,
}

impl Effective {
    /// Whether a file with the value would mean the same: it has one, and nothing of it is hidden.
    pub fn is_whole(&self) -> bool {
        self.value != "unset" && !self.value.contains("hidden)")
    }
}

/// How the log looks, as far as that can be told where [`load`] refuses the rest.
pub fn log_format(sources: &Sources) -> LogFormat {
    let in_file = || {
        let text = fs::read_to_string(sources.file.as_ref()?).ok()?;
        let file = File::from_str(&text, FileFormat::Toml);
        Config::builder().add_source(file).build().ok()?.get_string("log.format").ok()
    };
    let given: Vec<String> = said_of(&sources.environment, "log.format").collect();
    let given = if given.is_empty() { in_file().into_iter().collect() } else { given };
    let mut formats = given.into_iter().filter_map(|name| LogFormat::try_from(name).ok());
    let default = Log::default().format;
    // Where two say different things, the form that programs can read.
    formats.find(|format| *format != default).unwrap_or(default)
}

/// Merges the sources over the defaults and checks the outcome.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let known = known_keys()?;
    let mut builder = Config::builder();
    let file = sources.file.as_ref().map(|path| path.display().to_string());
    let file = file.unwrap_or_default();
    if let Some(path) = &sources.file {
        let content = fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("configuration file {file}: {e}")))?;
        builder = builder.add_source(File::from_str(&content, FileFormat::Toml));
    }
    let unreadable = |error: config::ConfigError| {
        ConfigError(format!("configuration file {file}: {}", without_lines(&error)))
    };
    let merged = builder
        .add_source(Environment::read(&sources.environment, &known)?)
        .add_source(Given::new(&sources.options))
        .build()
        .map_err(unreadable)?;

    let mut given = BTreeMap::new();
    flatten("", &merged.cache, &mut given);
    // A value from the file carries no origin of its own.
    let origin = |key: &str| match given.get(key) {
        Some(value) => value.origin().unwrap_or(&file).to_owned(),
        None => "default".to_owned(),
    };
    if let Some(key) = given.keys().find(|key| !known.contains(key)) {
        return Err(unknown(key, &origin(key), &known));
    }
    let settings: Settings = serde_path_to_error::deserialize(merged).map_err(|e| {
        let key = e.path().to_string();
        let setting = key.split('[').next().unwrap_or(&key);
        let why = if setting == KEYS || SECRETS.contains(&setting) {
            expected(setting, &key, e.inner())
        } else {
            reason(e.inner())
        };
        ConfigError(format!("`{key}` from {}: {why}", origin(setting)))
    })?;
    settings
        .check()
        .map_err(|e| ConfigError(format!("`{}` from {}: {}", e.key, origin(e.key), e.allowed)))?;

    let values = flat_json(&settings)?;
    let effective = values
        .into_iter()
        .map(|(key, value)| Effective { source: origin(&key), value: shown(&key, &value), key })
        .collect();
    let warnings = near_misses(&sources.environment, &known);
    let warnings = warnings.iter().map(|warning| one_line(warning)).collect();
    Ok(Loaded { settings, effective, warnings })
}

/// What was given on the command line, as a source of the merge.
#[derive(Clone, Debug)]
struct Given(Map<String, Value>);

impl Given {
    fn new(options: &[(&str, &str, String)]) -> Self {
        let given = options.iter().map(|(key, option, value)| {
            let origin = format!("option {option}");
            ((*key).to_owned(), Value::new(Some(&origin), value.clone()))
        });
        Self(given.collect())
    }
}

impl Source for Given {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Every key there is, from the defaults.
fn known_keys() -> Result<Vec<String>, ConfigError> {
    Ok(flat_json(&Settings::default())?.into_keys().collect())
}

/// `section.name` to value; an option that is not set is null.
fn flat_json(settings: &Settings) -> Result<BTreeMap<String, serde_json::Value>, ConfigError> {
    let tree = serde_json::to_value(settings).map_err(|e| ConfigError(e.to_string()))?;
    let sections = tree.as_object().into_iter().flatten();
    let keys = sections.flat_map(|(section, body)| {
        let names = body.as_object().into_iter().flatten();
        names.map(move |(name, value)| (format!("{section}.{name}"), value.clone()))
    });
    Ok(keys.collect())
}

fn shown(key: &str, value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "unset".to_owned(),
        _ if SECRETS.contains(&key) => HIDDEN.to_owned(),
        other => as_toml(other),
    }
}

/// A value as TOML in one line. What is not set in a table is left out, as there is no null.
fn as_toml(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(as_toml).collect::<Vec<_>>().join(", "))
        }
        Value::Object(table) => {
            let set = table.iter().filter(|(_, value)| !value.is_null());
            let set = set.map(|(name, value)| format!("{name} = {}", as_toml(value)));
            format!("{{ {} }}", set.collect::<Vec<_>>().join(", "))
        }
        // The two differ in this character alone.
        other => other.to_string().replace('\u{7f}', "\\u007F"),
    }
}

fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    let ValueKind::Table(table) = &value.kind else {
        into.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        flatten(&key, value, into);
    }
}

fn reason(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("{} is not {}", found(&unexpected.to_string()), wanted(expected))
        }
        config::ConfigError::At { error, .. } => reason(error),
        other => other.to_string(),
    }
}

/// What stands there, numbers without the kind that the parser takes them for.
fn found(unexpected: &str) -> &str {
    let kinds = ["64-bit integer ", "64-bit unsigned integer "];
    kinds.iter().find_map(|kind| unexpected.strip_prefix(kind)).unwrap_or(unexpected)
}

/// What should, in terms of numbers and not of the machine's.
fn wanted(expected: &str) -> &str {
    match expected {
        "an unsigned 8 bit integer" => "a whole number from 0 to 255",
        "an unsigned 16 bit integer" => "a whole number from 0 to 65535",
        "an unsigned 32 bit integer" => "a whole number from 0 to 4294967295",
        "an unsigned 64 bit integer" | "an unsigned 64 bit or less integer" => {
            "a whole number, 0 or more"
        }
        other => other,
    }
}

/// Why what may be a secret was refused, without showing it.
fn expected(setting: &str, key: &str, error: &config::ConfigError) -> String {
    let public = [".grants", ".expires_at", ".requests_per_second", ".max_waiters"];
    if setting != KEYS {
        return "expected a text".to_owned();
    }
    if key.ends_with(".expires_at") {
        return "expected a moment as RFC 3339 has it, such as 2030-01-31T12:00:00Z".to_owned();
    }
    if key.ends_with(".grants") {
        return "expected a list, such as [\"send,receive:orders*\"]".to_owned();
    }
    if public.iter().any(|part| key.contains(part)) {
        return reason(error);
    }
    "expected keys that have a text as `name`, one as `key`, `key_file` or `sha256`, and a list as \
     `grants`; `expires_at`, `requests_per_second` and `max_waiters` are optional"
        .to_owned()
}

/// What is wrong with a file, without the line of it that the parser shows: it may hold a secret.
fn without_lines(error: &config::ConfigError) -> String {
    let shows = |line: &&str| {
        line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|')
    };
    error.to_string().lines().filter(|line| !shows(line)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
