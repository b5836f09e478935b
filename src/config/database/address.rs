//! What a database URL may say. What it may not is refused by its name: the driver would ignore it,
//! and log its value, which may be secret.

use url::Url;

/// Parameters, and the other names that the driver has for them.
const PARAMETERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
/// What the gateway looks for in any case.
const SESSION_ATTRIBUTES: [&str; 2] = ["read-write", "primary"];

const ONE_HOST: &str = "it names several hosts, and the gateway goes to one: give it an address that \
    leads to the primary, such as a name that is moved or a proxy's";
const NO_URL: &str = "the value must be a URL such as postgres://user:password@host:5432/database";
const NOT_ENCODED: &str = "what the user or the password has of `/`, `?`, `#`, `@` and `%` must be \
    percent-encoded in a URL, such as %3F for `?`";

/// Says what is wrong with a URL, without repeating what may be secret.
pub(super) fn check(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    let rest = rest.ok_or(NO_URL)?;
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = behind.split('?').next().unwrap_or_default();
    let cut_short = behind.contains('@') && !authority.contains('@');
    if behind.contains('#') || (cut_short && path.contains('@')) {
        return Err(NOT_ENCODED.to_owned());
    }
    if host.contains(',') || host.to_ascii_lowercase().contains("%2c") {
        return Err(ONE_HOST.to_owned());
    }
    let url = Url::parse(text).map_err(|_| NO_URL)?;
    let checked = url.query_pairs().try_for_each(|(name, value)| check_parameter(&name, &value));
    // The rest of a password would be repeated as a name.
    checked.map_err(|refused| if cut_short { NOT_ENCODED.to_owned() } else { refused })
}

fn check_parameter(name: &str, value: &str) -> Result<(), String> {
    let one_of = |values: &[&str]| {
        let fits = values.contains(&value);
        let refuse = || format!("`{name}` must be one of {}", values.join(", "));
        if fits { Ok(()) } else { Err(refuse()) }
    };
    match name {
        "sslmode" | "ssl-mode" => one_of(&SSL_MODES),
        "target_session_attrs" => one_of(&SESSION_ATTRIBUTES),
        "host" | "hostaddr" | "port" if value.contains(',') => Err(ONE_HOST.to_owned()),
        "port" if value.parse::<u16>().is_err() => Err("`port` must be a number".to_owned()),
        "hostaddr" if value.parse::<std::net::IpAddr>().is_err() => {
            Err("`hostaddr` must be an address".to_owned())
        }
        "statement-cache-capacity" if value.parse::<u16>().is_err() => {
            Err(format!("`{name}` must be a number"))
        }
        _ if PARAMETERS.contains(&name) || is_option(name) => Ok(()),
        _ => Err(refusal(name)),
    }
}

fn is_option(name: &str) -> bool {
    name.strip_prefix("options[").is_some_and(|rest| rest.ends_with(']'))
}

/// Why a parameter is refused, and what would be right.
fn refusal(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    // It may be no name at all.
    if name.is_empty() || name.len() > 40 || !name.chars().all(plain) {
        return format!("it has a parameter that the gateway does not know; it takes {}", known());
    }
    let bare = |name: &str| name.replace(['_', '-'], "").to_ascii_lowercase();
    if let Some(meant) = PARAMETERS.iter().find(|known| bare(known) == bare(name)) {
        return format!("`{name}` is not known: it is called `{meant}`");
    }
    let instead = match &*bare(name) {
        "keepalives" | "keepalivesidle" | "keepalivesinterval" | "keepalivescount"
        | "tcpusertimeout" => {
            "leave it out: the gateway finds out by itself, within seconds, that a connection is dead"
        }
        "connecttimeout" => {
            "database.connect_timeout_seconds is for the start, database.acquire_timeout_ms for a \
             request"
        }
        "pooltimeout" => "database.acquire_timeout_ms is for that",
        "statementtimeout" => "database.statement_timeout_ms is for that",
        "connectionlimit" | "maxconnections" | "poolsize" => "database.max_connections is for that",
        "pgbouncer" => "database.transaction_pooler is for that",
        "loadbalancehosts" => ONE_HOST,
        "searchpath" | "schema" | "currentschema" => {
            "leave it out: the gateway needs no search_path, and sets its own"
        }
        "clientencoding" => "leave it out: it is UTF8",
        "fallbackapplicationname" => "use `application_name`",
        "sslpassword" => {
            "give it a key that is not encrypted, in a file that only the gateway may read"
        }
        _ => return format!("`{name}` is not supported; the gateway takes {}", known()),
    };
    format!("`{name}` is not supported: {instead}")
}

fn known() -> String {
    let names = PARAMETERS.iter().filter(|name| !name.starts_with("ssl-"));
    names.copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_understands_is_taken() {
        for url in [
            "postgres://localhost",
            "postgres:///database?host=/run/postgresql",
            "postgresql://user:p%40ss%2Cword@[::1]:5433/database",
            "postgres://user:a,b@host/database?sslmode=verify-full&sslrootcert=/etc/ca.crt",
            "postgres://h/d?options=-c%20work_mem%3D4MB&options[jit]=off&application_name=queues",
            "postgres://h/d?target_session_attrs=read-write",
            "postgres://h/d?user=me@tenant&password=a@b",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_it_would_ignore_is_refused_with_what_would_be_right() {
        for (url, wanted) in [
            ("mysql://host/db", "must be a URL"),
            ("postgres://host:port/db", "must be a URL"),
            ("postgres://u:p@one:5432,two:5432/db", "several hosts"),
            ("postgres://u:p@one,two/db", "several hosts"),
            ("postgres://u:p@h/db?host=one,two", "several hosts"),
            ("postgres://u:p@h/db?port=1,2", "several hosts"),
            ("postgres://h/db?target_session_attrs=any", "read-write, primary"),
            ("postgres://h/db?target_session_attrs=prefer-standby", "read-write, primary"),
            ("postgres://h/db?keepalives_idle=5", "`keepalives_idle`"),
            ("postgres://h/db?tcp_user_timeout=5000", "`tcp_user_timeout`"),
            ("postgres://h/db?ssl_mode=verify-full", "it is called `sslmode`"),
            ("postgres://h/db?sslRootCert=/etc/ca.crt", "it is called `sslrootcert`"),
            ("postgres://h/db?sslmode=verify_full", "verify-full"),
            ("postgres://h/db?connect_timeout=5", "database.connect_timeout_seconds"),
            ("postgres://h/db?pgbouncer=true", "database.transaction_pooler"),
            ("postgres://h/db?channel_binding=require", "`channel_binding` is not supported"),
        ] {
            let refused = check(url).expect_err(url);
            assert!(refused.contains(wanted), "{url}: {refused}");
        }
    }

    #[test]
    fn nothing_secret_is_repeated() {
        for url in [
            "postgres://u:hunter2@h/db?sslpassword=hunter2",
            "postgres://u:hun?ter2=x@h/db",
            "postgres://u:a#hunter2@h/db",
            "postgres://u:a/hunter2@h/db",
            "postgres://h/db?unknown=hunter2",
            "postgres://h/db?hunter2!%20=x",
            "postgres://h/db?sslmode=hunter2",
            "postgres://h/db?target_session_attrs=hunter2",
            "hunter2",
            "host=h password=hunter2",
        ] {
            let refused = check(url).expect_err(url);
            assert!(!refused.contains("hunter2") && !refused.contains("ter2"), "{url}: {refused}");
        }
    }
}
