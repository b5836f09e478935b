//! What is said of a setting that is refused.

/// A list of tables, some of whose values are secrets.
pub(super) const KEYS: &str = "auth.keys";
/// A list of tables, none of whose values is a secret.
pub(super) const ROLES: &str = "jwt.roles";

/// Why the configuration was refused: one line that names the setting, its source and what is
/// allowed.
#[derive(Debug, thiserror::Error)]
#[error("{}", one_line(.0))]
pub struct ConfigError(pub(super) String);

/// A setting that there is not, and those that there are beside it.
pub(super) fn unknown(key: &str, source: &str, known: &[String]) -> ConfigError {
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

/// Without what would end the line, or write over it.
pub(super) fn one_line(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || c.is_control();
    text.split(ends).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}
