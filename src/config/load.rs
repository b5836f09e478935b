//! Putting the sources together, and saying where a value came from.

use std::{collections::BTreeMap, fs, path::PathBuf};

use config::{Config, File, FileFormat, Map, Source, Value, ValueKind};

use super::Settings;

/// What every variable of the gateway's begins with.
const PREFIX: &str = "PGMQ_GATEWAY__";
/// Variables that platforms set, and the settings they stand for.
const CUSTOMARY: [(&str, &str); 2] = [("DATABASE_URL", "database.url"), ("PORT", "server.port")];
/// Settings that are never shown.
const SECRETS: [&str; 4] =
    ["database.url", "database.direct_url", "receipts.signing_key", "auth.admin_key"];

/// Where settings come from, weakest first; the defaults stand before them.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
}

/// Why the configuration was refused: one line that names the setting, its source and what is
/// allowed.
#[derive(Debug, thiserror::Error)]
#[error("{}", one_line(.0))]
pub struct ConfigError(String);

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub settings: Settings,
    /// Each value as text, with its source, ordered by key.
    pub effective: Vec<Effective>,
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
    let merged = builder
        .add_source(Environment(environment_values(&sources.environment, &known)?))
        .build()
        .map_err(|e| ConfigError(format!("configuration file {file}: {e}")))?;

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
        ConfigError(format!("`{key}` from {}: {}", origin(&key), reason(e.inner())))
    })?;
    settings
        .check()
        .map_err(|e| ConfigError(format!("`{}` from {}: {}", e.key, origin(e.key), e.allowed)))?;

    let values = flat_json(&settings)?;
    let effective = values
        .into_iter()
        .map(|(key, value)| Effective { source: origin(&key), value: shown(&key, &value), key })
        .collect();
    Ok(Loaded { settings, effective })
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
        _ if SECRETS.contains(&key) => "(hidden)".to_owned(),
        other => other.to_string(),
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

fn unknown(key: &str, source: &str, known: &[String]) -> ConfigError {
    let section = key.split('.').next().unwrap_or(key);
    let siblings: Vec<_> =
        known.iter().filter(|k| k.split('.').next() == Some(section)).map(String::as_str).collect();
    let allowed = if siblings.is_empty() {
        let mut sections: Vec<_> = known.iter().filter_map(|k| k.split('.').next()).collect();
        sections.dedup();
        format!("the sections are {}", sections.join(", "))
    } else {
        format!("known are {}", siblings.join(", "))
    };
    ConfigError(format!("unknown setting `{key}` from {source}: {allowed}"))
}

/// What the environment says, by key. An empty variable counts as unset.
fn environment_values(
    environment: &[(String, String)],
    known: &[String],
) -> Result<Map<String, Value>, ConfigError> {
    let mut values = Map::new();
    let set = environment.iter().filter(|(_, value)| !value.is_empty());
    let (ours, others): (Vec<_>, Vec<_>) = set.partition(|(name, _)| name.starts_with(PREFIX));
    for (name, value) in others {
        let key = |name: &str| CUSTOMARY.iter().find(|(n, _)| *n == name).map(|(_, key)| *key);
        if let Some(key) = key(name) {
            values.insert(key.to_owned(), from_variable(name, value.clone()));
        } else if let Some(key) = name.strip_suffix("_FILE").and_then(key) {
            values.insert(key.to_owned(), from_variable(name, read_secret(name, value)?));
        }
    }
    for (name, value) in ours {
        let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        let file_key = key.strip_suffix("_file").filter(|k| known.iter().any(|n| n == k));
        match file_key {
            _ if known.contains(&key) => {
                values.insert(key, from_variable(name, value.clone()));
            }
            Some(file_key) => {
                let value = from_variable(name, read_secret(name, value)?);
                values.insert(file_key.to_owned(), value);
            }
            None => {
                return Err(unknown(&key, &format!("environment variable {name}"), known));
            }
        }
    }
    Ok(values)
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

fn reason(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("{unexpected} is not {expected}")
        }
        config::ConfigError::At { error, .. } => reason(error),
        other => other.to_string(),
    }
}

/// Without what would end the line, or write over it.
fn one_line(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || c.is_control();
    text.split(ends).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The environment as a source of the merge.
#[derive(Clone, Debug)]
struct Environment(Map<String, Value>);

impl Source for Environment {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn sources(file: &str, environment: &[(&str, &str)]) -> (Sources, tempfile::NamedTempFile) {
        let mut toml = tempfile::Builder::new().suffix(".toml").tempfile().expect("temporary file");
        toml.write_all(file.as_bytes()).expect("written");
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let sources = Sources {
            file: Some(toml.path().to_owned()),
            environment: environment.iter().map(owned).collect(),
        };
        (sources, toml)
    }

    fn refusal(file: &str, environment: &[(&str, &str)]) -> String {
        let (sources, _file) = sources(file, environment);
        load(&sources).expect_err("must be refused").to_string()
    }

    #[test]
    fn later_sources_win_and_are_named() {
        let (sources, file) = sources(
            "[server]\nport = 1000\nhost = \"::1\"\n[long_poll]\nmax_connections = 3\n",
            &[
                ("PORT", "2000"),
                ("PGMQ_GATEWAY__LONG_POLL__MAX_CONNECTIONS", "7"),
                ("DATABASE_URL", "postgres://u:secret@h/d"),
                ("UNRELATED", "x"),
            ],
        );
        let loaded = load(&sources).expect("valid");
        assert_eq!(loaded.settings.server.port, 2000);
        assert_eq!(loaded.settings.long_poll.max_connections, 7);
        let find = |key: &str| {
            let entry = loaded.effective.iter().find(|e| e.key == key);
            entry.map(|e| (e.value.clone(), e.source.clone())).expect("listed")
        };
        assert_eq!(find("server.port").1, "environment variable PORT");
        assert_eq!(find("server.host").1, file.path().display().to_string());
        assert_eq!(find("limits.max_message_bytes"), ("1048576".into(), "default".into()));
        assert_eq!(find("database.direct_url"), ("unset".into(), "default".into()));
        assert_eq!(find("database.url").0, "(hidden)");
        assert!(!format!("{loaded:?}").contains("secret"));
    }

    #[test]
    fn what_would_break_a_line_does_not() {
        for (file, environment) in [
            ("\"a\\nb\" = 1\n", &[][..]),
            ("[server]\n\"\\u001b[31m\" = 1\n", &[]),
            ("[log]\nlevel = \"\"\"a\nb\"\"\"\n", &[]),
            ("[server]\nhost = \"a\\nb\"\n", &[]),
            ("", &[("PGMQ_GATEWAY__A\nB", "1")]),
            ("", &[("PGMQ_GATEWAY__LOG__FORMAT", "a\nb")]),
            ("", &[("DATABASE_URL_FILE", "/no\nwhere")]),
        ] {
            let line = refusal(file, environment);
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }

    fn one_line_at_most(loaded: Result<Loaded, ConfigError>) -> Result<(), TestCaseError> {
        if let Err(error) = loaded {
            let line = error.to_string();
            prop_assert!(!line.is_empty() && !line.contains(char::is_control), "{:?}", line);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_file_is_read_or_refused_in_one_line(
            text in "\\PC{0,60}|(\\[?(server|limits|log|x\"\ny|database)\\]?[.= \n]{0,3}(port|url|\"\\\\n\"|1e9|'|nan|\\{\\}|-1|1979-05-27)?[ \n]?){0,8}",
        ) {
            let (sources, _file) = sources(&text, &[]);
            one_line_at_most(load(&sources))?;
        }

        #[test]
        fn any_environment_is_read_or_refused_in_one_line(
            name in "(PGMQ_GATEWAY__)?(\\PC{0,20}|(SERVER|LIMITS|LOG|DATABASE)__(PORT|HOST|LEVEL|URL|MAX_BODY_BYTES)(_FILE)?)",
            value in any::<String>(),
        ) {
            let (sources, _file) = sources("", &[(&name, &value)]);
            one_line_at_most(load(&sources))?;
        }
    }

    #[test]
    fn our_own_variable_wins_over_the_customary_one() {
        let (sources, _file) = sources(
            "",
            &[("PGMQ_GATEWAY__SERVER__PORT", "1"), ("PORT", "2"), ("DATABASE_URL", "")],
        );
        let loaded = load(&sources).expect("valid");
        assert_eq!(loaded.settings.server.port, 1);
        assert_eq!(loaded.settings.database.url, None);
    }

    #[test]
    fn a_mounted_secret_is_read() {
        let mut secret = tempfile::NamedTempFile::new().expect("temporary file");
        secret.write_all(b"postgres://u:p@h/d\n").expect("written");
        let path = secret.path().display().to_string();
        for name in ["DATABASE_URL_FILE", "PGMQ_GATEWAY__DATABASE__URL_FILE"] {
            let (sources, _file) = sources("", &[(name, &path)]);
            let url = load(&sources).expect("valid").settings.database.url.expect("set");
            assert_eq!(url.expose(), "postgres://u:p@h/d");
        }
        let missing = refusal("", &[("DATABASE_URL_FILE", "/nowhere/at/all")]);
        assert!(missing.contains("DATABASE_URL_FILE") && missing.contains("/nowhere/at/all"));
    }

    #[test]
    fn mistakes_are_one_line_with_key_source_and_what_is_allowed() {
        for (file, environment, parts) in [
            ("[server]\nprot = 1\n", &[][..], &["`server.prot`", ".toml", "server.port"][..]),
            ("[sever]\nport = 1\n", &[], &["`sever.port`", ".toml", "database, embedded"]),
            ("port = 1\n", &[], &["`port`", ".toml"]),
            ("[server]\nport = \"abc\"\n", &[], &["`server.port`", ".toml", "an integer"]),
            ("[server]\nport = 70000\n", &[], &["`server.port`", "70000", "16 bit"]),
            ("[server\n", &[], &[".toml"]),
            ("", &[("PORT", "many")], &["`server.port`", "PORT", "an integer"]),
            (
                "",
                &[("PGMQ_GATEWAY__SERVER__HOST", "here")],
                &["`server.host`", "SERVER__HOST", "IP address"],
            ),
            ("", &[("PGMQ_GATEWAY__NO__SUCH", "1")], &["`no.such`", "PGMQ_GATEWAY__NO__SUCH"]),
            ("", &[("PGMQ_GATEWAY__LOG__FORMAT", "xml")], &["`log.format`", "text", "json"]),
            ("", &[("PGMQ_GATEWAY__LOG__LEVEL", "inof")], &["`log.level`", "inof", "debug"]),
            ("", &[("PGMQ_GATEWAY__EMBEDDED__PORT", "0")], &["`embedded.port`", "1 to 65535"]),
            (
                "[server]\nunix_socket_mode = \"0888\"\n",
                &[],
                &["`server.unix_socket_mode`", ".toml", "octal", "0777"],
            ),
            (
                "[server]\nunix_socket_mode = \"+660\"\n",
                &[],
                &["`server.unix_socket_mode`", "octal"],
            ),
            ("[tls]\ncert_file = \"c\"\n", &[], &["`tls.cert_file`", ".toml", "tls.key_file"]),
            ("", &[("PGMQ_GATEWAY__TLS__KEY_FILE", "k")], &["`tls.key_file`", "tls.cert_file"]),
            ("[tls]\nclient_ca_file = \"a\"\n", &[], &["`tls.client_ca_file`", "tls.cert_file"]),
            ("[limits]\nmax_connections = 0\n", &[], &["`limits.max_connections`", "1 to 1000000"]),
            (
                "[limits]\nmax_header_bytes = 100\n",
                &[],
                &["`limits.max_header_bytes`", "8192 to 1048576"],
            ),
            (
                "[database]\nmax_connections = 0\n",
                &[],
                &["`database.max_connections`", ".toml", "1 to 1000"],
            ),
        ] {
            let line = refusal(file, environment);
            for part in parts {
                assert!(line.contains(part), "{line:?} lacks {part:?}");
            }
            assert_eq!(line.lines().count(), 1, "{line:?}");
        }
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_it() {
        for wrong in ["mysql://u:hunter2@h/d", "hunter2", "postgres//hunter2"] {
            let line = refusal("", &[("DATABASE_URL", wrong)]);
            assert!(line.contains("database.url") && line.contains("postgres://user"), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        }
    }

    /// The example file: every setting once, commented out, with its default.
    #[test]
    fn the_example_file_is_complete() {
        let example = include_str!("../../pgmq-gateway.example.toml");
        let uncommented: String = example
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| line.trim_start_matches('#').to_owned() + "\n")
            .collect();
        let (sources, _file) = sources(&uncommented, &[]);
        let loaded = load(&sources).expect("the example must be valid");
        let defaults = load(&Sources::default()).expect("defaults are valid");
        let unset =
            |key: &str| defaults.effective.iter().any(|e| e.key == key && e.value == "unset");
        for (example, default) in loaded.effective.iter().zip(&defaults.effective) {
            assert_ne!(example.source, "default", "`{}` is missing", example.key);
            if !unset(&example.key) {
                assert_eq!(example.value, default.value, "default of `{}`", example.key);
            }
        }
    }
}
